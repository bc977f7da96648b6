# UperNet with SecViT-T on CamVid (367 training images of streets, 11 classes), from random weights, on a CPU:
# about 40 minutes on one core. Widths of heads are the demo's. The data come from tools/dataset_converters/camvid.py.
# Training evaluates the validation set, tools/test.py the test set, on which papers report mIoU. All settings are ours.
_base_ = './secvit_t_upernet_shapes.py'

data_root = 'data/camvid'
metainfo = dict(
    classes=(
        'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
    ),
    palette=[
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ],
)  # fmt: skip

# Initial weights are the backbone's own, so that any backbone can take SecViT's place.
crop_size = (192, 192)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(init_cfg=None),
    decode_head=dict(num_classes=11, loss_decode=dict(class_weight=None)),
    auxiliary_head=dict(num_classes=11),
)

# Images are 480x360.
train_pipeline = [
    dict(
        type='mmsec.SkipBroken',
        transforms=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    ),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.55, 1.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(360, 270), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# Label 0 is a class here, unlike ADE20K's.
dataset = dict(reduce_zero_label=False, data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    dataset=dict(
        pipeline=train_pipeline,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        **dataset,
    ),
)
val_dataloader = dict(
    dataset=dict(
        pipeline=test_pipeline,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        **dataset,
    ),
)
test_dataloader = dict(
    dataset=dict(
        pipeline=test_pipeline,
        data_prefix=dict(img_path='images/test', seg_map_path='annotations/test'),
        **dataset,
    ),
)

# 1400 iterations in batches of 4 are 15 epochs.
max_iters = 1400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
# Clusters are not drawn, so that any backbone can take SecViT's place.
default_hooks = dict(
    _base_.default_hooks, _delete_=True, checkpoint=dict(_base_.default_hooks.checkpoint, interval=400)
)
default_hooks.pop('clusters')
