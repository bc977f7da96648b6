# Cityscapes, 8 classes of things, 2048x1024, 2 images a GPU. The annotation files come from mmdetection's
# tools/dataset_converters/cityscapes.py. An epoch is eight passes over the 2975 training images.
_base_ = './coco_instance.py'

data_root = 'data/cityscapes/'

train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='RandomResize', scale=[(2048, 800), (2048, 1024)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(2048, 1024), keep_ratio=True),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=8,
        dataset=dict(
            type='CityscapesDataset',
            data_root=data_root,
            ann_file='annotations/instancesonly_filtered_gtFine_train.json',
            data_prefix=dict(img='leftImg8bit/train/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=train_pipeline,
        ),
    ),
)
val_ann_file = 'annotations/instancesonly_filtered_gtFine_val.json'
val_dataloader = dict(
    dataset=dict(
        type='CityscapesDataset',
        data_root=data_root,
        ann_file=val_ann_file,
        data_prefix=dict(img='leftImg8bit/val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val_ann_file)
test_evaluator = val_evaluator
