# secvit_t_upernet_camvid.py with mmsegmentation's Swin-T and the random weights that it starts from there.
_base_ = '../../../configs/mmseg/secvit_t_upernet_camvid.py'

model = dict(
    backbone=dict(_delete_=True, type='SwinTransformer', drop_path_rate=0.0),  # its other defaults are Swin-T
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
