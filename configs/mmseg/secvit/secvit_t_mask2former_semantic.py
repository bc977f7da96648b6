# Mask2Former for semantic segmentation with SecViT-T, 160k iterations on crops of 512x512. It needs mmdetection.
#
# As mmsegmentation's Mask2Former on Swin: the head, AdamW 1e-4 with weight decay 0.05 and none on norms and queries, a
# tenth of the rate for the backbone, gradients clipped at 0.01, poly decay of power 0.9, crops of 640x640 for b and l.
# Ours: drop path 0.1 / 0.15 / 0.4 / 0.5 for t / s / b / l and the augmentation, which are those of secvit_t_upernet.py.
_base_ = [
    '../_base_/models/mask2former_semantic.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_mask2former.py',
    '../_base_/default_runtime.py',
]

custom_imports = dict(imports=[*_base_.custom_imports.imports, 'mmdet.models'])
