# UperNet with mmsegmentation's Swin-T, 160k iterations: clusters of 49 tokens in place of windows of 7x7.
#
# Published: Swin's sizes, drop path 0.3 and learning rate 6e-5 of its UperNet. All else is secvit_t_upernet.py's.
_base_ = '../secvit/secvit_t_upernet.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ClusteredSwin',
        backbone=dict(type='SwinTransformer', drop_path_rate=0.3),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/swin_tiny_patch4_window7_224.pth'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
