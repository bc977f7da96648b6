# UperNet with ViT-B from DINOv3's weights, which Meta gives on request. No settings are published for UperNet on
# DINOv3: the rate is that of UperNet on ViT-B, the rest that of MAE.
_base_ = './vit_b_upernet_mae.py'

model = dict(
    backbone=dict(
        arch='dinov3-base',
        rotary_rescale=2.0,
        init_cfg=dict(checkpoint='checkpoints/dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth'),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=6e-5))
