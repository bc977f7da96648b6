"""Pure tensor functions, which need torch alone: grouping, attention, fused ops over maps, rotary embedding."""

from mmsec.ops.attention import (
    attention,
    cluster_attention,
    lepe_attention,
    proportional_attention,
    qkv_attention,
)
from mmsec.ops.carriers import carrier_attention
from mmsec.ops.grouping import GROUPINGS, Grouping, Tokens, cluster_ids, cluster_sizes
from mmsec.ops.kernels import explain, plain_torch, use_kernels
from mmsec.ops.layers import (
    call,
    conv_residual,
    conv_residual_norm,
    gelu_conv_residual,
    residual,
    residual_norm,
)
from mmsec.ops.positions import resize_positions
from mmsec.ops.rotary import apply_rotary, coordinate_table, rotary_periods, rotary_table, token_centers

__all__ = [
    'GROUPINGS',
    'Grouping',
    'Tokens',
    'apply_rotary',
    'attention',
    'call',
    'carrier_attention',
    'cluster_attention',
    'cluster_ids',
    'cluster_sizes',
    'conv_residual',
    'conv_residual_norm',
    'coordinate_table',
    'explain',
    'gelu_conv_residual',
    'lepe_attention',
    'plain_torch',
    'proportional_attention',
    'qkv_attention',
    'residual',
    'residual_norm',
    'resize_positions',
    'rotary_periods',
    'rotary_table',
    'token_centers',
    'use_kernels',
]
