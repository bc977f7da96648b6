# The demo (secvit_t_upernet_shapes.py) with another grouping: the score is the dot product with the mean key.
_base_ = '../secvit_t_upernet_shapes.py'

model = dict(backbone=dict(grouping=dict(type='SemanticGrouping', metric='dot')))
