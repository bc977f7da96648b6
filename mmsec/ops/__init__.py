"""Pure tensor functions: clustering, attention inside clusters, rotary embedding. They need torch alone."""

from mmsec.ops.attention import cluster_attention, explain_attention
from mmsec.ops.clustering import (
    Grouping,
    cluster_ranks,
    cluster_sizes,
    semantic_grouping,
    semantic_scores,
    window_grouping,
)
from mmsec.ops.convolution import conv2d_nhwc
from mmsec.ops.rotary import apply_rotary, rotary_table

__all__ = [
    'Grouping',
    'apply_rotary',
    'cluster_attention',
    'cluster_ranks',
    'cluster_sizes',
    'conv2d_nhwc',
    'explain_attention',
    'rotary_table',
    'semantic_grouping',
    'semantic_scores',
    'window_grouping',
]
