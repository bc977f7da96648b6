# Mask2Former for instances with SecViT-T, 50 epochs of large-scale jitter at 1024x1024.
#
# As mmdetection's Mask2Former on Swin: the head, the jitter, AdamW 1e-4 with weight decay 0.05 and none on norms and
# queries, a tenth of the rate for the backbone, gradients clipped at 0.01, batch 16, 50 epochs (100 for l, with 200
# queries). Ours: drop path 0.1 / 0.15 / 0.4 / 0.5 for t / s / b / l, which is that of secvit_t_maskrcnn.py, and the
# rate falls at whole epochs.
_base_ = [
    '../_base_/models/mask2former.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

image_size = (1024, 1024)
train_pipeline = [
    dict(
        type='mmsec.SkipBroken',
        transforms=[
            dict(type='LoadImageFromFile', to_float32=True),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        ],
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=image_size, crop_type='absolute', recompute_bbox=True, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# 50 epochs over 118k images in batches of 16 are 369k iterations; the rate falls after epochs 44 and 48.
max_epochs = 50
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[44, 48], gamma=0.1),
]
not_decayed = dict(decay_mult=0.0)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1), query_embed=not_decayed, query_feat=not_decayed, level_embed=not_decayed
        )
    ),
    clip_grad=dict(max_norm=0.01),
)
