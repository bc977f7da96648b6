# DINO with SecViT-T on four scales, 12 epochs at multiple scales with crops.
#
# As mmdetection's DINO: the head, the scales, AdamW 1e-4 with weight decay 1e-4, a tenth of the rate for the backbone,
# gradients clipped at 0.1, batch 16, 12 epochs with a step at 11 (for l, as on Swin-L, 36 with steps at 27 and 33; it
# has five scales there). Ours: drop path 0.1 / 0.15 / 0.4 / 0.5 for t / s / b / l, which is that of
# secvit_t_maskrcnn.py, and no weight decay on norms.
_base_ = [
    '../_base_/models/dino.py',
    '../_base_/datasets/coco_detection_multiscale.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

max_epochs = 12
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[11], gamma=0.1)]
optim_wrapper = dict(
    optimizer=dict(weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
    clip_grad=dict(max_norm=0.1),
)
