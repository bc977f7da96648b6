# Top-down heatmaps with SecViT-T on COCO's keypoints, 210 epochs at 256x192: mmpose's config with another backbone.
_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py'

custom_imports = dict(imports=['mmsec.models', 'mmsec.engine', 'mmsec.datasets'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsec.SecViT',
        arch='tiny',
        drop_path_rate=0.1,
        out_indices=(3,),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/secvit_tiny.pth'),
    ),
    head=dict(in_channels=512),
)
optim_wrapper = dict(
    constructor='mmsec.MergedOptimWrapperConstructor',
    optimizer=dict(_delete_=True, type='AdamW', lr=5e-4, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
