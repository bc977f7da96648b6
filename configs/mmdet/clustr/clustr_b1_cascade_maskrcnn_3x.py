# Cascade Mask R-CNN with ClusTR-b1, 36 epochs at multiple scales with crops. What is published: clustr_b1_maskrcnn.py.
_base_ = '../secvit/secvit_t_cascade_maskrcnn_3x.py'

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
