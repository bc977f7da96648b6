# Mask R-CNN with SecViT-T on your own data in COCO's format, from ImageNet weights. Copy this file into its folder, and
# change the first two lines; data_root holds images/, train.json and val.json.
_base_ = './secvit_t_maskrcnn.py'

data_root = 'data/mine/'
classes = ('cat', 'dog')  # of the categories in the annotations

model = dict(roi_head=dict(bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))))
data = dict(data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img='images/'))
train_dataloader = dict(dataset=dict(ann_file='train.json', **data))
val_dataloader = dict(dataset=dict(ann_file='val.json', **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator
