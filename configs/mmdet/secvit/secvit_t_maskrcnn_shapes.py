# The demo: Mask R-CNN with SecViT-T on generated shapes (tools/make_shapes.py), from random weights, on a CPU.
_base_ = './secvit_t_maskrcnn.py'

data_root = 'data/shapes/coco/'
metainfo = dict(
    classes=('disc', 'square', 'triangle', 'star'),
    palette=[(220, 20, 60), (30, 144, 255), (50, 205, 50), (255, 165, 0)],
)

# Narrower heads and fewer proposals than for COCO, because images are small and hold four shapes at most. BatchNorm
# estimates its own statistics, because there are no pre-trained ones to keep. Initial weights are PyTorch's default,
# which suits a run of minutes better than the published one (std 0.02).
model = dict(
    backbone=dict(
        drop_path_rate=0.0,
        norm_eval=False,
        init_cfg=dict(_delete_=True, type='mmsec.PyTorchDefault'),
    ),
    neck=dict(out_channels=64, norm_cfg=dict(type='GN', num_groups=8)),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=4),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=64),
        mask_head=dict(norm_cfg=dict(type='GN', num_groups=8), in_channels=64, conv_out_channels=64, num_classes=4),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=20)),
)

train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, filter_cfg=dict(min_size=0), pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

# 3 epochs over 1000 images in batches of 4 are 750 iterations.
max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=1),
    clusters=dict(type='mmsec.ClusterVisualizationHook'),
)
randomness = dict(seed=0)
