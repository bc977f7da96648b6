"""Attention inside clusters, in the place that a host's Swin has for attention inside windows."""

from typing import Any

from torch import Tensor, nn

from mmsec.models.layers.cluster_attention import ClusterAttention
from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.ops import qkv_attention


class ClusterMSA(ClusterAttention):
    """Multi-head attention inside clusters, with the weights of a window attention; their names stay.

    ``window_msa`` is a ``ShiftWindowMSA`` of mmdetection or mmsegmentation. Its relative positions are left out:
    it holds one number for each offset inside a window, and tokens of a cluster may be anywhere.
    """

    def __init__(self, window_msa: nn.Module, grouping: dict, block: int, count: ClusterCount) -> None:
        weights: Any = window_msa.w_msa
        super().__init__(weights.num_heads, grouping, block, count)
        self.w_msa = nn.ModuleDict({name: getattr(weights, name) for name in ('qkv', 'proj', 'proj_drop')})
        self.drop: Any = window_msa.drop

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C), normalised, of a map of size (H', W') -> (B, N, C)."""
        tokens = self.tokens(x, size)
        out = qkv_attention(tokens.qkv, self.group(tokens))  # (B, N, h, d)
        return self.drop(self.w_msa['proj_drop'](self.w_msa['proj'](out.flatten(2))))

    def project(self, x: Tensor) -> Tensor:
        """(B, N, C) -> queries, keys and values, (B, N, 3, h, d)."""
        return self.w_msa['qkv'](x).unflatten(-1, (3, self.num_heads, -1))
