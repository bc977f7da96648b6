# Mask R-CNN with SecViT-T on Cityscapes: 8 epochs of eight passes each, as mmdetection's Mask R-CNN on Cityscapes, here
# from ImageNet weights. Ours: batch 16 and the other settings of secvit_t_maskrcnn.py.
_base_ = [
    '../_base_/models/mask_rcnn.py',
    '../_base_/datasets/cityscapes_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = dict(roi_head=dict(bbox_head=dict(num_classes=8), mask_head=dict(num_classes=8)))

# 8 epochs of 8 x 2975 images in batches of 16 are 11.9k iterations; the rate falls after epoch 7.
max_epochs = 8
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_epochs, milestones=[7]),
]
