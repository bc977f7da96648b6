# Pascal VOC 2012, 21 classes with the background. The 1464 training images are those of VOC itself, without SBD's.
# Pipelines and batches are ADE20K's.
_base_ = './ade20k.py'

dataset = dict(
    _delete_=True,
    type='PascalVOCDataset',
    data_root='data/VOCdevkit/VOC2012',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
)
train_dataloader = dict(
    dataset=dict(ann_file='ImageSets/Segmentation/train.txt', pipeline={{_base_.train_pipeline}}, **dataset)
)
val_dataloader = dict(
    dataset=dict(ann_file='ImageSets/Segmentation/val.txt', pipeline={{_base_.test_pipeline}}, **dataset)
)
test_dataloader = val_dataloader
