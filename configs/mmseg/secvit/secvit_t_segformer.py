# SegFormer's head with SecViT-T, 160k iterations on crops of 512x512.
#
# As mmsegmentation's SegFormer: the head, AdamW 6e-5 with weight decay 0.01 and none on norms, ten times the rate for
# the head, a warm-up of 1500 iterations, poly decay of power 1. Ours: drop path 0.1, and the augmentation, which is
# that of secvit_t_upernet.py.
_base_ = [
    '../_base_/models/segformer.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/default_runtime.py',
]

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))))
