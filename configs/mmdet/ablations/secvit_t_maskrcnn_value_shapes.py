# The demo (secvit_t_maskrcnn_shapes.py) with another grouping: the score is that of the value.
_base_ = '../secvit_t_maskrcnn_shapes.py'

model = dict(backbone=dict(grouping=dict(type='SemanticGrouping', feature='value')))
