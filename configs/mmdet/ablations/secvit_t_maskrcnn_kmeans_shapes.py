# The demo (secvit_t_maskrcnn_shapes.py) with another grouping: balanced k-means.
_base_ = '../secvit_t_maskrcnn_shapes.py'

model = dict(backbone=dict(grouping=dict(type='KMeansGrouping')))
