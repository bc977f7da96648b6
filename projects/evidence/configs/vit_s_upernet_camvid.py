# secvit_t_upernet_camvid.py with a plain ViT-S, patches of 16 pixels, and the pyramid of its last map.
_base_ = '../../../configs/mmseg/secvit_t_upernet_camvid.py'

model = dict(
    # No merging; a trained model can be tested with it: --cfg-options model.backbone.merging.type=...
    backbone=dict(_delete_=True, type='mmsec.ViT', arch='small', img_size=192, merging=dict(), drop_path_rate=0.0),
    neck=dict(type='mmsec.SimpleFeaturePyramid', in_channels=384, out_channels=64, num_outs=4),
    decode_head=dict(in_channels=[64, 64, 64, 64]),
    auxiliary_head=dict(in_channels=64),
)
