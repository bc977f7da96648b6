_base_ = './secvit_t_maskrcnn_3x.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.4, init_cfg=dict(checkpoint='checkpoints/secvit_base.pth')),
    neck=dict(in_channels=[80, 160, 320, 512]),
)
