# The demo (secvit_t_upernet_shapes.py) with another grouping: a random split.
_base_ = '../secvit_t_upernet_shapes.py'

model = dict(backbone=dict(grouping=dict(type='RandomGrouping')))
