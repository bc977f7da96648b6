# secvit_t_upernet_camvid.py from PyTorch's default random weights, as the demo starts: how much of what SecViT-T
# reaches in a short run depends on where it starts.
_base_ = '../../../configs/mmseg/secvit_t_upernet_camvid.py'

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
