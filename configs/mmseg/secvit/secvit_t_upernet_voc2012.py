# UperNet with SecViT-T on Pascal VOC 2012, 20k iterations on crops of 512x512. All settings but the data's are ours:
# those of secvit_t_upernet.py, and fewer iterations.
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/voc2012.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/default_runtime.py',
]

model = dict(decode_head=dict(num_classes=21), auxiliary_head=dict(num_classes=21))

# 20k iterations in batches of 16 are 219 epochs of 1464 images.
max_iters = 20000
train_cfg = dict(max_iters=max_iters, val_interval=4000)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
default_hooks = dict(checkpoint=dict(interval=4000))
