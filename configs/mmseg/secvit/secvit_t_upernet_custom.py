# UperNet with SecViT-T on your own images and label maps, from ImageNet weights. `python -m mmsec copy
# secvit_t_upernet_custom mine.py` copies it to any folder: change data_root, classes and max_iters. data_root holds
# images/{train,val}/*.jpg and labels/{train,val}/*.png of the same names. A pixel of a label map is the number of its
# class, counted from 0, or 255 for no class; where 0 is no class, data also needs reduce_zero_label=True.
_base_ = './secvit_t_upernet.py'

data_root = 'data/mine/'
classes = ('road', 'house', 'tree')
max_iters = 20000

model = dict(decode_head=dict(num_classes=len(classes)), auxiliary_head=dict(num_classes=len(classes)))
data = dict(type='BaseSegDataset', data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='images/train', seg_map_path='labels/train'), **data),
)
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='images/val', seg_map_path='labels/val'), **data),
)
test_dataloader = val_dataloader

# Warm-up, evaluation and checkpoints by tenths of the run, and at least ten lines of losses.
tenth = max(2, max_iters // 10)
train_cfg = dict(max_iters=max_iters, val_interval=tenth)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=tenth),
    dict(_base_.param_scheduler[1], begin=tenth, end=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=tenth), logger=dict(interval=min(50, tenth)))
