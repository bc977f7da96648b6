# Five scales and three times the epochs, as mmdetection's DINO on Swin-L.
_base_ = './secvit_t_dino.py'

model = dict(
    num_feature_levels=5,
    backbone=dict(
        arch='large',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.5,
        init_cfg=dict(checkpoint='checkpoints/secvit_large.pth'),
    ),
    neck=dict(in_channels=[112, 224, 448, 640], num_outs=5),
    encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_levels=5))),
    decoder=dict(layer_cfg=dict(cross_attn_cfg=dict(num_levels=5))),
)
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[27, 33], gamma=0.1)]
