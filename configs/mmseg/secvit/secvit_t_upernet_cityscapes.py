# UperNet with SecViT-T on Cityscapes, 80k iterations on crops of 512x1024. All settings but the data's are ours: those
# of secvit_t_upernet.py, and half its iterations.
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
)

# 80k iterations in batches of 16 are 430 epochs of 2975 images.
max_iters = 80000
train_cfg = dict(max_iters=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
