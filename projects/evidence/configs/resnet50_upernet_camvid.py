# secvit_t_upernet_camvid.py with mmsegmentation's ResNet-50 and the random weights that it starts from there.
_base_ = '../../../configs/mmseg/secvit_t_upernet_camvid.py'

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=50),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)
