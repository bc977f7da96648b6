# Mask R-CNN with SecViT-T, 12 epochs at 1333x800.
#
# Published: the backbone's sizes and clusters; drop path 0.1 / 0.15 / 0.4 / 0.5 for t / s / b / l, 12 epochs with steps
# at 8 and 11, warm-up of 500 iterations, weight decay 0.05 and none on norms, 1333x800 padded to 32, frozen BatchNorm
# statistics and a LayerNorm on each map are those of RMT (qhfan/RMT), by the same first author.
# Ours: learning rate 1e-4 (the usual one for AdamW at batch 16; RMT's is 4e-4) and no mixed precision unless --amp is
# given. The code of the authors' detectors is not released.
_base_ = [
    '../_base_/models/mask_rcnn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
