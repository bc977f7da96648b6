# 160k iterations in batches of 16 (8 GPUs x 2) are 127 epochs of ADE20K's 20,210 training images.
max_iters = 160000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=1500, end=max_iters, by_epoch=False),
]
# norm_decay_mult finds norms by type, also those that a Sequential names by number.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmsec.MergedOptimWrapperConstructor',  # one group for each setting, not for each parameter
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    clip_grad=dict(max_norm=35.0),  # far above what is usual: it cuts a spike, and no more
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
