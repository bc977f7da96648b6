# The demo (secvit_t_upernet_shapes.py) with another grouping: balanced k-means.
_base_ = '../secvit_t_upernet_shapes.py'

model = dict(backbone=dict(grouping=dict(type='KMeansGrouping')))
