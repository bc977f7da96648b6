# UperNet with SecViT-T, 160k iterations on crops of 512x512.
#
# Published: the backbone's sizes and clusters; drop path 0.1 / 0.15 / 0.4 / 0.5 for t / s / b / l, 160k iterations,
# AdamW 6e-5, weight decay 0.01, warm-up of 1500 iterations and 2 images a GPU are those of RMT (qhfan/RMT), by the same
# first author.
# Ours: 8 GPUs, poly decay of power 1, no weight decay on norms, the auxiliary head and the
# augmentation (mmsegmentation's usual ones). The code of the authors' segmenters is not released.
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/default_runtime.py',
]
