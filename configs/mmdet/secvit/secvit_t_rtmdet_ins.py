# RTMDet-Ins with SecViT-T, 100 epochs of mosaics and mixtures at 640x640; the last 10 epochs without both.
#
# As mmdetection's RTMDet-Ins-L: the head, the pipelines, averaged weights, no weight decay on norms and biases. As its
# RTMDet on Swin-B: GroupNorm, 100 epochs, AdamW 1e-3 with weight decay 0.05, batch 128. Ours: drop path 0.1, 8
# GPUs with 16 images each, and masks as bitmaps. As polygons they would be faster, but mmdetection then leaves out
# masks in run lengths without a word, and their boxes.
_base_ = [
    '../_base_/models/rtmdet_ins.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

size = (640, 640)
grey = dict(img=(114, 114, 114))
crop = dict(type='RandomCrop', crop_size=size, recompute_bbox=True, allow_negative_crop=True)
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='CachedMosaic', img_scale=size, pad_val=114.0),
    dict(type='RandomResize', scale=(1280, 1280), ratio_range=(0.1, 2.0), keep_ratio=True),
    crop,
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=size, pad_val=grey),
    dict(type='CachedMixUp', img_scale=size, ratio_range=(1.0, 1.0), max_cached_images=20, pad_val=(114, 114, 114)),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='PackDetInputs'),
]
last_pipeline = [
    _base_.train_pipeline[0],
    dict(type='RandomResize', scale=size, ratio_range=(0.1, 2.0), keep_ratio=True),
    crop,
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=size, pad_val=grey),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='Pad', size=size, pad_val=grey),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(batch_size=16, batch_sampler=None, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# 100 epochs over 118k images in batches of 128 are 92k iterations; the rate falls over the second half.
max_epochs = 100
train_cfg = dict(max_epochs=max_epochs, val_interval=10, dynamic_intervals=[(max_epochs - 10, 1)])
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.05,
        begin=max_epochs // 2,
        end=max_epochs,
        T_max=max_epochs // 2,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(bias_decay_mult=0.0, bypass_duplicate=True),  # the three maps share convolutions
)
auto_scale_lr = dict(base_batch_size=128)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),
    dict(type='PipelineSwitchHook', switch_epoch=max_epochs - 10, switch_pipeline=last_pipeline),
]
