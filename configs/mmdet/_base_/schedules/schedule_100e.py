# 100 epochs over 118k images in batches of 64 (8 GPUs x 8) are 184k iterations; the rate falls after epochs 89 and 96.
_base_ = './schedule_1x.py'

max_epochs = 100
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[89, 96], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=64)
