# SecViT-T on your own folder of classes, from ImageNet weights, published or trained here. `python -m mmsec copy
# secvit_t_classifier_custom mine.py` copies it to any folder: change data_root, num_classes and max_epochs. data_root
# holds {train,val}/CLASS/*.jpg.
#
# All settings are ours: 30 epochs of AdamW 2e-4 at batch 256, with a rate that decays by 0.8 a layer; augmentation as
# for ImageNet. Weights are not averaged: after a few thousand iterations, 0.99996 is still close to where it started.
_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/schedule_300e.py',
    '../_base_/default_runtime.py',
]

data_root = 'data/mine/'
num_classes = 2
max_epochs = 30

model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='checkpoints/secvit_tiny.pth')),
    head=dict(num_classes=num_classes),
)
data = dict(type='CustomDataset', data_root=data_root)
train_dataloader = dict(batch_size=32, sampler=dict(type='DefaultSampler'), dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

# Warm-up in the first two of 30 epochs; in less than 30 the first, and then the rate falls from there on.
warm_up = max(1, max_epochs // 15)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warm_up),
    dict(_base_.param_scheduler[1], begin=min(warm_up, max_epochs - 1), end=max_epochs),
]
optim_wrapper = dict(
    constructor='mmsec.LayerDecayOptimizerConstructor',
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(decay_rate=0.8),
)
auto_scale_lr = dict(base_batch_size=256)
