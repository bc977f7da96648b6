"""Pure tensor functions: clustering, attention inside clusters, rotary embedding. They need torch alone."""

from mmsec.ops.attention import cluster_attention, permute_tokens
from mmsec.ops.clustering import Grouping, cluster_sizes, semantic_grouping, semantic_scores
from mmsec.ops.rotary import apply_rotary, rotary_table

__all__ = [
    'Grouping',
    'apply_rotary',
    'cluster_attention',
    'cluster_sizes',
    'permute_tokens',
    'rotary_table',
    'semantic_grouping',
    'semantic_scores',
]
