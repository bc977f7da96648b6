# Cascade Mask R-CNN with SecViT-T, 36 epochs at multiple scales with crops.
_base_ = [
    '../_base_/models/cascade_mask_rcnn.py',
    '../_base_/datasets/coco_instance_multiscale.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]
