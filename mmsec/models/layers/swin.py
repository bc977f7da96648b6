"""Attention inside clusters, in the place that a host's Swin has for attention inside windows."""

from typing import Any

from torch import Tensor, nn

from mmsec.models.inspection import TokenClusters, grouped_clusters
from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.ops import Tokens, build_grouping, cluster_attention, qkv_attention


class ClusterMSA(nn.Module):
    """Multi-head attention inside clusters, with the weights of a window attention; their names stay.

    The table of relative positions is not taken over: it holds one number for each offset inside a window, and tokens
    of a cluster may be anywhere.

    Args:
        window_msa (nn.Module): ``ShiftWindowMSA`` of mmdetection or mmsegmentation.
        grouping (dict): How tokens are grouped, for :func:`mmsec.ops.build_grouping`.
        block (int): Place of the block in its stage, from 0.
        count (ClusterCount): Clusters.
    """

    def __init__(self, window_msa: nn.Module, grouping: dict, block: int, count: ClusterCount) -> None:
        super().__init__()
        weights: Any = window_msa.w_msa
        self.num_heads = weights.num_heads
        self.w_msa = nn.ModuleDict({name: getattr(weights, name) for name in ('qkv', 'proj', 'proj_drop')})
        self.drop: Any = window_msa.drop
        self.grouping = build_grouping(grouping, block)
        self.count = count

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Attend inside clusters.

        Args:
            x (Tensor): (B, N, C), normalised.
            size (tuple[int, int]): Rows H' and columns W' of the map, H' * W' = N.

        Returns:
            Tensor: (B, N, C).
        """
        tokens = self.tokens(x, size)
        num_clusters = self.count.of(x.shape[1])
        if num_clusters > 1:
            out = qkv_attention(tokens.qkv, self.grouping(tokens, num_clusters))  # (B, N, h, d)
        else:
            out = cluster_attention(tokens.query, tokens.key, tokens.value, None)
        return self.drop(self.w_msa['proj_drop'](self.w_msa['proj'](out.flatten(2))))

    def tokens(self, x: Tensor, size: tuple[int, int]) -> Tokens:
        """What attention and grouping work on; arguments as :meth:`forward`."""
        qkv = self.w_msa['qkv'](x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, h, d)
        return Tokens(qkv, x.unflatten(-1, (self.num_heads, -1)), (size[0], size[1]))

    def clusters(self, x: Tensor, size: tuple[int, int]) -> TokenClusters:
        """Which tokens attend to each other; arguments as :meth:`forward`."""
        return grouped_clusters(self.grouping, self.tokens(x, size), self.count.of(x.shape[1]))
