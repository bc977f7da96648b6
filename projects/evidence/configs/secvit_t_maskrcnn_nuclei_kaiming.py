# secvit_t_maskrcnn_nuclei.py from the random weights that the demo starts from, PyTorch's default: what
# secvit_t_maskrcnn_nuclei_from_shapes.py is to be compared with, so that only what was learnt on shapes differs.
_base_ = '../../../configs/mmdet/secvit_t_maskrcnn_nuclei.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='Kaiming',
            layer=['Conv2d', 'Linear'],
            mode='fan_in',
            a=5**0.5,
            nonlinearity='leaky_relu',
            distribution='uniform',
        ),
    ),
)
