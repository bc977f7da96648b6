# The demo (secvit_t_maskrcnn_shapes.py) with another number of clusters: fewer clusters in later blocks of stage 3.
_base_ = '../secvit_t_maskrcnn_shapes.py'

model = dict(backbone=dict(num_clusters=(32, 8, [4, 4, 2, 2, 2, 2, 1, 1, 1], 1)))
