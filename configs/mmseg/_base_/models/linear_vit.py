# One 1x1 convolution on the last map of a frozen plain ViT.
_base_ = './upernet_vit.py'

model = dict(
    backbone=dict(out_indices=(11,), drop_path_rate=0.0, out_norm=True, frozen_stages=12),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=768,
        in_index=0,
        channels=768,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)
