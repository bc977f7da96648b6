# Twice the epochs and queries, as mmdetection's Mask2Former on Swin-L.
_base_ = './secvit_t_mask2former.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.5, init_cfg=dict(checkpoint='checkpoints/secvit_large.pth')),
    panoptic_head=dict(num_queries=200, in_channels=[112, 224, 448, 640]),
)
max_epochs = 100
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[89, 96], gamma=0.1),
]
