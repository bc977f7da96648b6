# The last six blocks run on a grid of 0.7 times the height and width: half of the tokens.
_base_ = './vit_s_upernet_dinov2.py'

model = dict(backbone=dict(merging=dict(type='Expedit', after_block=6, size=0.7)))
