_base_ = './clustr_b1_upernet.py'

model = dict(backbone=dict(arch='b2', init_cfg=dict(checkpoint='checkpoints/clustr_b2.pth')))
