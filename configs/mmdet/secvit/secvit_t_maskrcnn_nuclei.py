# Mask R-CNN with SecViT-T on nuclei under microscopes (Data Science Bowl 2018), from random weights, on a CPU: about
# 40 minutes on one core. Widths of heads are the demo's, so that a run can start from one on shapes. The data come from
# tools/dataset_converters/nuclei.py. All settings are ours.
_base_ = './secvit_t_maskrcnn_shapes.py'

data_root = 'data/nuclei/'
metainfo = dict(classes=('nucleus',), palette=[(220, 20, 60)])

# Half of the nuclei are smaller than 17x17 pixels, hence anchors of 8 to 181. An image has up to 375 of them. Initial
# weights are the backbone's own, so that any backbone can take SecViT's place. Nothing is padded in the test, because
# no crop in training is: SecViT took padding for nuclei.
model = dict(
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(init_cfg=None),
    rpn_head=dict(anchor_generator=dict(scales=[2, 4])),
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=600), rcnn=dict(max_per_img=400)),
)

# Crops of 192x192, because most images are 256x256 and a few are 1024x1024; whole images as they are in the test.
train_pipeline = [
    _base_.train_pipeline[0],
    dict(
        type='RandomChoice',
        transforms=[[dict(type='Resize', scale_factor=ratio, keep_ratio=True)] for ratio in (0.75, 1.0, 1.5)],
    ),
    dict(type='RandomCrop', crop_size=(192, 192), recompute_bbox=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(3, 3)),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale_factor=1.0, keep_ratio=True),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator

# 9 epochs over 452 images in batches of 4 are 1017 iterations.
max_epochs = 9
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_epochs)]
# Clusters are not drawn, so that any backbone can take SecViT's place.
default_hooks = dict(_base_.default_hooks, _delete_=True)
default_hooks.pop('clusters')
