# Mask R-CNN with SecViT-T on your own data in COCO's format, from ImageNet weights. `python -m mmsec copy
# secvit_t_maskrcnn_custom mine.py` copies it to any folder: change data_root, classes and max_epochs. data_root holds
# images/, train.json and val.json.
_base_ = './secvit_t_maskrcnn.py'

data_root = 'data/mine/'
classes = ('cat', 'dog')  # of the categories in the annotations
max_epochs = 12

model = dict(roi_head=dict(bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))))
data = dict(data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img='images/'))
train_dataloader = dict(dataset=dict(ann_file='train.json', **data))
val_dataloader = dict(dataset=dict(ann_file='val.json', **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator

# Warm-up in the first epoch; the learning rate falls after two thirds and eleven twelfths of the run.
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(_base_.param_scheduler[0], by_epoch=True, end=1, convert_to_iter_based=True),
    dict(
        _base_.param_scheduler[1],
        end=max_epochs,
        milestones=sorted({max(1, max_epochs * 2 // 3), max(1, max_epochs * 11 // 12)}),
    ),
]
