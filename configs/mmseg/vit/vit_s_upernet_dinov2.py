_base_ = './vit_b_upernet_dinov2.py'

model = dict(
    backbone=dict(arch='small', init_cfg=dict(checkpoint='checkpoints/dinov2_vits14_pretrain.pth')),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
