# 80k iterations in batches of 16 (8 GPUs x 2) are 63 epochs of ADE20K's 20,210 training images.
_base_ = './schedule_160k.py'

max_iters = 80000
train_cfg = dict(max_iters=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters, power=0.9)]
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))
