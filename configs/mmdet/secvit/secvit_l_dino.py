# Three times the epochs, as mmdetection's DINO on Swin-L.
_base_ = './secvit_t_dino.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.5, init_cfg=dict(checkpoint='checkpoints/secvit_large.pth')),
    neck=dict(in_channels=[224, 448, 640]),
)
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[27, 33], gamma=0.1)]
