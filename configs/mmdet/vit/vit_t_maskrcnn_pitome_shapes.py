# The demo: Mask R-CNN with ViT-T, whose tokens PiToMe merges, on generated shapes (tools/make_shapes.py), from random
# weights, on a CPU. Patches of 8 pixels, because images are small.
_base_ = '../secvit/secvit_t_maskrcnn_shapes.py'

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
    neck=dict(_delete_=True, type='mmsec.SimpleFeaturePyramid', in_channels=192, out_channels=64, num_outs=5),
    rpn_head=dict(anchor_generator=dict(strides=[2, 4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[2, 4, 8, 16]),
        mask_roi_extractor=dict(featmap_strides=[2, 4, 8, 16]),
    ),
)
