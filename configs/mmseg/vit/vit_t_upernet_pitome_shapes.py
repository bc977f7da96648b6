# The demo: UperNet with ViT-T, whose tokens PiToMe merges, on generated shapes (tools/make_shapes.py), from random
# weights, on a CPU. Patches of 8 pixels, because images are small; a simple feature pyramid of the last map.
_base_ = '../secvit/secvit_t_upernet_shapes.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.ViT',
        arch=dict(embed_dims=192, depth=6, num_heads=3, mlp_ratio=4),
        patch_size=8,
        img_size=128,
        merging=dict(type='PiToMe', ratio=0.925),
        drop_path_rate=0.0,
    ),
    neck=dict(type='mmsec.SimpleFeaturePyramid', in_channels=192, out_channels=64, num_outs=4),
    decode_head=dict(in_channels=[64, 64, 64, 64]),
    auxiliary_head=dict(in_channels=64),
)
