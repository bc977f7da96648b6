_base_ = './secvit_t_mask2former_semantic.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.15, init_cfg=dict(checkpoint='checkpoints/secvit_small.pth')),
)
