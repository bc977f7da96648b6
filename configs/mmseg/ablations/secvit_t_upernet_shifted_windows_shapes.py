# The demo (secvit_t_upernet_shapes.py) with another grouping: windows, shifted in every second block.
_base_ = '../secvit_t_upernet_shapes.py'

model = dict(backbone=dict(grouping=dict(type='WindowGrouping', shift=True)))
