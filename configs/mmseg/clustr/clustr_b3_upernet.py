_base_ = './clustr_b1_upernet.py'

model = dict(
    backbone=dict(arch='b3', drop_path_rate=0.3, init_cfg=dict(checkpoint='checkpoints/clustr_b3.pth')),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
