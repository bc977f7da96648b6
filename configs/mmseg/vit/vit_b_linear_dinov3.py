# A linear head on ViT-B from DINOv3's weights, which Meta gives on request and which stay as they are. All settings are
# ours.
_base_ = [
    '../_base_/models/linear_vit.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        arch='dinov3-base',
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth'),
    ),
)
max_iters = 40000
train_cfg = dict(max_iters=max_iters, val_interval=4000)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=1e-3))
