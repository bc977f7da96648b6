# The demo (secvit_t_upernet_shapes.py) with another grouping: the sign of the score does not count.
_base_ = '../secvit_t_upernet_shapes.py'

model = dict(backbone=dict(grouping=dict(type='SemanticGrouping', magnitude=True)))
