# Mask R-CNN with mmdetection's Swin-T, 12 epochs at 1333x800: clusters of 49 tokens in place of windows of 7x7.
#
# Published: Swin's sizes, drop path 0.2 and learning rate 1e-4 of its Mask R-CNN. All else is secvit_t_maskrcnn.py's.
_base_ = '../secvit/secvit_t_maskrcnn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ClusteredSwin',
        backbone=dict(type='SwinTransformer', drop_path_rate=0.2),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/swin_tiny_patch4_window7_224.pth'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
