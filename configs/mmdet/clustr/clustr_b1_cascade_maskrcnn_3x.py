# Cascade Mask R-CNN with ClusTR-b1, 36 epochs at multiple scales with crops. What is published: clustr_b1_maskrcnn.py.
_base_ = [
    '../_base_/models/cascade_mask_rcnn.py',
    '../_base_/datasets/coco_instance_multiscale.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ClusTR',
        arch='b1',
        region_size=3136,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/clustr_b1.pth'),
    ),
)
