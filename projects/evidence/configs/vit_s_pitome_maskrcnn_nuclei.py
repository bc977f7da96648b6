# vit_s_maskrcnn_nuclei.py, trained with merging: each block keeps 92.5 % of the tokens.
_base_ = './vit_s_maskrcnn_nuclei.py'

model = dict(backbone=dict(merging=dict(type='PiToMe', ratio=0.925)))
