# 12 epochs over 118k images in batches of 16 (8 GPUs x 2) are 88k iterations; the rate falls after epochs 8 and 11.
max_epochs = 12
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
# norm_decay_mult finds norms by type, also those that a Sequential names by number.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmsec.MergedOptimWrapperConstructor',  # one group for each setting, not for each parameter
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    clip_grad=dict(max_norm=35.0),  # far above what is usual: it cuts a spike, and no more
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
