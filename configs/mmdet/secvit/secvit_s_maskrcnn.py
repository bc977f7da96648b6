_base_ = './secvit_t_maskrcnn.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.15, init_cfg=dict(checkpoint='checkpoints/secvit_small.pth')),
)
