# secvit_t_upernet_camvid_small.py on nuclei: pixels of nuclei and of the background. Images are at most 256x256.
_base_ = './secvit_t_upernet_camvid_small.py'

model = dict(decode_head=dict(num_classes=2), auxiliary_head=dict(num_classes=2))
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='RandomResize', scale=(256, 256), ratio_range=(0.75, 1.5), keep_ratio=True),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    *_base_.test_pipeline[2:],
]
data = dict(
    data_root='data/nuclei', metainfo=dict(classes=('background', 'nucleus'), palette=[(0, 0, 0), (220, 20, 60)])
)
train_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='train', seg_map_path='labels/train'), pipeline=train_pipeline, **data),
)
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='val', seg_map_path='labels/val'), pipeline=test_pipeline, **data),
)
test_dataloader = val_dataloader

# 450 iterations in batches of 4 are 4 epochs, about 3 minutes on one core. Only the last weights are evaluated.
max_iters = 450
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
