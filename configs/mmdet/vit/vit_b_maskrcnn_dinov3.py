# ViT-B from DINOv3's weights, which Meta gives on request. What is published of DINOv3 for detection keeps the backbone
# frozen under another detector: all settings but the recipe of ViTDet are ours.
_base_ = './vit_b_maskrcnn.py'

model = dict(
    backbone=dict(
        arch='dinov3-base',
        with_cls_token=True,
        rotary_rescale=2.0,
        init_cfg=dict(checkpoint='checkpoints/dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth'),
    ),
)
