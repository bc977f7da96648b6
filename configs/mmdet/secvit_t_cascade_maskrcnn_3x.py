# Cascade Mask R-CNN with SecViT-T, 36 epochs at multiple scales with crops.
_base_ = [
    './_base_/cascade_mask_rcnn.py',
    './_base_/coco_instance_ms.py',
    './_base_/schedule_3x.py',
    './_base_/default_runtime.py',
]
