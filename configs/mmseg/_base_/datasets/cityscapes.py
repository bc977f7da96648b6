# Cityscapes, 19 classes, crops of 512x1024, 2 images a GPU. The label maps (*_labelTrainIds.png) come from
# mmsegmentation's tools/dataset_converters/cityscapes.py. What is not here is ADE20K's.
_base_ = './ade20k.py'

crop_size = (512, 1024)
train_pipeline = [
    dict(
        type='mmsec.SkipBroken',
        transforms=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
        ],
    ),
    dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(2048, 1024), keep_ratio=True),
    *_base_.test_pipeline[2:],
]
dataset = dict(_delete_=True, type='CityscapesDataset', data_root='data/cityscapes')
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
        **dataset,
    ),
)
test_dataloader = val_dataloader
