"""Pure tensor functions, which need torch alone: grouping, attention, layers over maps, rotary embedding."""

from mmsec.ops.attention import attention, cluster_attention, proportional_attention
from mmsec.ops.grouping import Grouping, Tokens, build_grouping, cluster_ids, cluster_sizes
from mmsec.ops.kernels import explain, plain_torch
from mmsec.ops.maps import add, conv2d, gelu_and_mix, linear, linear_chunks
from mmsec.ops.positions import resize_positions
from mmsec.ops.rotary import apply_rotary, rotary_table

__all__ = [
    'Grouping',
    'Tokens',
    'add',
    'apply_rotary',
    'attention',
    'build_grouping',
    'cluster_attention',
    'cluster_ids',
    'cluster_sizes',
    'conv2d',
    'explain',
    'gelu_and_mix',
    'linear',
    'linear_chunks',
    'plain_torch',
    'proportional_attention',
    'resize_positions',
    'rotary_table',
]
