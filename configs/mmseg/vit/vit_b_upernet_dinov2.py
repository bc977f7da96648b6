# UperNet with ViT-B from DINOv2's weights, 160k iterations on crops of 512x512: 37x37 patches of 14 pixels, for which
# its positions were learned. No settings are published for UperNet on DINOv2: the rate is that of UperNet on ViT-B, the
# rest that of MAE.
_base_ = './vit_b_upernet_mae.py'

model = dict(
    backbone=dict(
        patch_size=14,
        img_size=518,
        layer_scale=1.0,
        init_cfg=dict(checkpoint='checkpoints/dinov2_vitb14_pretrain.pth'),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=6e-5))
