# SecViT-T on a folder of classes, data/mine/{train,val}/CLASS/*.jpg, from ImageNet weights, published or trained here.
#
# Ours: all of it. 30 epochs of AdamW 2e-4 at batch 256, with a rate that decays by 0.8 a layer; images are augmented as
# for ImageNet. Weights are not averaged: after a few thousand iterations, 0.99996 is still close to where it started.
_base_ = [
    './_base_/models/classifier.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/schedule_300e.py',
    './_base_/default_runtime.py',
]

num_classes = 2
data_root = 'data/mine/'
model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='checkpoints/secvit_tiny.pth')),
    head=dict(num_classes=num_classes),
)
train_dataloader = dict(
    batch_size=32,
    sampler=dict(type='DefaultSampler'),
    dataset=dict(type='CustomDataset', data_root=data_root),
)
val_dataloader = dict(dataset=dict(type='CustomDataset', data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

max_epochs = 30
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-2,
        by_epoch=True,
        begin=2,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    constructor='mmsec.LayerDecayOptimizerConstructor',
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(decay_rate=0.8),
)
auto_scale_lr = dict(base_batch_size=256)
