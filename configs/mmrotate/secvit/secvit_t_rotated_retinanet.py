# Rotated RetinaNet with SecViT-T on DOTA, 12 epochs at 1024x1024: mmrotate's config, with another backbone and AdamW.
_base_ = 'mmrotate::rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota.py'

custom_imports = dict(imports=['mmsec.models', 'mmsec.engine', 'mmsec.datasets'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.SecViT',
        arch='tiny',
        drop_path_rate=0.1,
        out_indices=(1, 2, 3),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/secvit_tiny.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)
optim_wrapper = dict(
    constructor='mmsec.MergedOptimWrapperConstructor',
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
