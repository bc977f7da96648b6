# The demo (secvit_t_maskrcnn_shapes.py) with another grouping: the score is the distance to the mean key.
_base_ = '../secvit_t_maskrcnn_shapes.py'

model = dict(backbone=dict(grouping=dict(type='SemanticGrouping', metric='euclidean')))
