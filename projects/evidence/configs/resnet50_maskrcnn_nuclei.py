# secvit_t_maskrcnn_nuclei.py with mmdetection's ResNet-50 and the random weights that it starts from there.
_base_ = '../../../configs/mmdet/secvit_t_maskrcnn_nuclei.py'

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=50, norm_eval=False),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
