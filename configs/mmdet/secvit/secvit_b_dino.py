_base_ = './secvit_t_dino.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.4, init_cfg=dict(checkpoint='checkpoints/secvit_base.pth')),
    neck=dict(in_channels=[160, 320, 512]),
)
