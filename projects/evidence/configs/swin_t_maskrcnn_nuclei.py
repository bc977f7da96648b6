# secvit_t_maskrcnn_nuclei.py with mmdetection's Swin-T and the random weights that it starts from there.
_base_ = '../../../configs/mmdet/secvit_t_maskrcnn_nuclei.py'

model = dict(
    backbone=dict(_delete_=True, type='SwinTransformer', drop_path_rate=0.0),  # its other defaults are Swin-T
    neck=dict(in_channels=[96, 192, 384, 768]),
)
