# Semantic FPN with SecViT-T, 80k iterations on crops of 512x512.
#
# 80k iterations in batches of 16, AdamW 1e-4, weight decay 1e-4 and poly decay of power 0.9 are those of PVT (arXiv
# 2102.12122), a pyramid of four maps like SecViT's. Ours: drop path 0.1, the warm-up, no weight decay on norms.
_base_ = [
    '../_base_/models/semantic_fpn.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_80k.py',
    '../_base_/default_runtime.py',
]
