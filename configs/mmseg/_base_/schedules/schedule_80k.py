# 80k iterations in batches of 16 (8 GPUs x 2) are 63 epochs of ADE20K's 20,210 training images.
_base_ = './schedule_160k.py'

max_iters = 80000
train_cfg = dict(max_iters=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=0.9, eta_min=0.0, begin=1500, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))
