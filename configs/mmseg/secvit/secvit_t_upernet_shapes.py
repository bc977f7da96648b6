# The demo: UperNet with SecViT-T on generated shapes (tools/make_shapes.py), from random weights, on a CPU.
_base_ = './secvit_t_upernet.py'

data_root = 'data/shapes/ade'
metainfo = dict(
    classes=('ground', 'disc', 'square', 'triangle', 'star'),
    palette=[(96, 96, 96), (220, 20, 60), (30, 144, 255), (50, 205, 50), (255, 165, 0)],
)

# A narrower head for small images and five classes; initial weights for a run of minutes, which PyTorch's default
# suits better than the published one (std 0.02).
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        drop_path_rate=0.0,
        init_cfg=dict(_delete_=True, type='mmsec.PyTorchDefault'),
    ),
    decode_head=dict(
        channels=64,
        num_classes=5,
        dropout_ratio=0.0,
        loss_decode=dict(class_weight=[0.5, 1.0, 1.0, 1.0, 1.0]),  # most pixels are ground
    ),
    auxiliary_head=dict(channels=64, num_classes=5, dropout_ratio=0.0),
)

train_pipeline = [
    dict(
        type='mmsec.SkipBroken',
        transforms=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
        ],
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
# BaseSegDataset reads any ADE20K-style folder; ADE20KDataset would insist on ADE20K's 150 classes.
dataset = dict(
    type='BaseSegDataset',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=True,
    data_root=data_root,
    metainfo=metainfo,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader

max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=8e-4), clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    checkpoint=dict(interval=max_iters, max_keep_ckpts=1),
    clusters=dict(type='mmsec.ClusterVisualizationHook'),
)
randomness = dict(seed=0)
