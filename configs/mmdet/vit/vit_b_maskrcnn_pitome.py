# Merged tokens lie on no grid, so all blocks are global; each keeps 92.5 % of the tokens.
_base_ = './vit_b_maskrcnn.py'

model = dict(backbone=dict(window_size=0, merging=dict(type='PiToMe', ratio=0.925, order='mae')))
