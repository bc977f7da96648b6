# The demo (secvit_t_upernet_shapes.py) with another grouping: each cluster is a sample of the sorted list.
_base_ = '../secvit_t_upernet_shapes.py'

model = dict(backbone=dict(grouping=dict(type='SemanticGrouping', cut='interleaved')))
