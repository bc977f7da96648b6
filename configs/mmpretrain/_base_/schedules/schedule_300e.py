# 300 epochs over 1.28M images in batches of 1024 (8 GPUs x 128) are 375k iterations. The rate is 5e-4 * batch / 512; it
# warms up from 1e-6 and falls to 1e-5. The latter is a ratio here, which also suits rates that decay by layer.
max_epochs = 300
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-2,
        by_epoch=True,
        begin=5,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmsec.MergedOptimWrapperConstructor',  # one group for each setting, not for each parameter
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=35.0),  # far above what is usual: it cuts a spike, and no more
)
auto_scale_lr = dict(enable=False, base_batch_size=1024)
