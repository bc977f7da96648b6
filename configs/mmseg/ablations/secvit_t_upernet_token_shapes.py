# The demo (secvit_t_upernet_shapes.py) with another grouping: the score is that of the normalised token.
_base_ = '../secvit_t_upernet_shapes.py'

model = dict(backbone=dict(grouping=dict(type='SemanticGrouping', feature='token')))
