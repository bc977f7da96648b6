_base_ = './secvit_t_maskrcnn.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.5, init_cfg=dict(checkpoint='checkpoints/secvit_large.pth')),
    neck=dict(in_channels=[112, 224, 448, 640]),
)
