# The demo's narrow UperNet on the maps of four blocks of the frozen ViT-S/14.
_base_ = './vit_s_linear_imgfocus_camvid.py'

norm_cfg = dict(type='SyncBN', requires_grad=True)
head = dict(
    dropout_ratio=0.0,
    num_classes=11,
    norm_cfg=norm_cfg,
    align_corners=False,
    loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
)
model = dict(
    backbone=dict(out_indices=(2, 5, 8, 11)),
    neck=dict(type='Feature2Pyramid', embed_dim=384, rescales=[4, 2, 1, 0.5], norm_cfg=norm_cfg),
    decode_head=dict(
        _delete_=True,
        type='UPerHead',
        in_channels=[384, 384, 384, 384],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=64,
        **head,
    ),
)
optim_wrapper = dict(optimizer=dict(lr=8e-4))
