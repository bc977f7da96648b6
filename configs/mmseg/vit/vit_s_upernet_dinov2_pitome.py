# Each block keeps 92.5 % of the tokens.
_base_ = './vit_s_upernet_dinov2.py'

model = dict(backbone=dict(merging=dict(type='PiToMe', ratio=0.925, order='deit')))
