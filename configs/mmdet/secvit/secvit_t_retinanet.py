# RetinaNet with SecViT-T, 12 epochs at 1333x800.
#
# As RMT (qhfan/RMT), by the same first author: drop path 0.1, AdamW 4e-4 with weight decay 1e-4. The rest is that of
# secvit_t_maskrcnn.py, the head mmdetection's.
_base_ = [
    '../_base_/models/retinanet.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]

optim_wrapper = dict(optimizer=dict(lr=4e-4, weight_decay=1e-4))
