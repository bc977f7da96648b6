# The demo with Semantic FPN: SecViT-T on generated shapes (tools/make_shapes.py), from random weights, on a CPU.
_base_ = './secvit_t_upernet_shapes.py'

model = dict(
    neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=64, num_outs=4),
    decode_head=dict(
        _delete_=True,
        type='FPNHead',
        in_channels=[64, 64, 64, 64],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=64,
        dropout_ratio=0.0,
        num_classes=5,
        norm_cfg={{_base_.norm_cfg}},
        align_corners=False,
        loss_decode={{_base_.model.decode_head.loss_decode}},
    ),
    auxiliary_head=None,
)
