# The demo with another grouping or other numbers of clusters, by --cfg-options; README.md has them. Here: as published.
_base_ = '../secvit/secvit_t_upernet_shapes.py'

model = dict(backbone=dict(grouping=dict(type='SemanticGrouping'), num_clusters=(32, 8, 2, 1)))
