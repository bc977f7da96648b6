"""Attention inside clusters of tokens: the layer that SecViT, ViT and Swin share."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.ops import GROUPINGS, Grouping, Tokens, cluster_ids


class TokenClusters(NamedTuple):
    """Which tokens of a map are together.

    Attributes:
        ids (Tensor): (B, heads, H', W') int64, the cluster of each token from 0; where all heads share their clusters
            (B, scales, H', W'), see :func:`mmsec.models.inspection.scales_of`.
        scores (Tensor, optional): (B, heads, H', W'), what tokens were sorted by; clusters then stand in ascending
            order of it. None for clusters without order.
        score_name (str): What the scores are.
    """

    ids: Tensor
    scores: Tensor | None = None
    score_name: str = ''

    @classmethod
    def single(cls, x: Tensor, size: tuple[int, ...]) -> 'TokenClusters':
        """One cluster of all tokens of maps of that size, for the images of ``x``."""
        return cls(torch.zeros(len(x), 1, *size, dtype=torch.int64, device=x.device))


class ClusterAttention(nn.Module):
    """Multi-head attention inside clusters of tokens.

    Backbones differ in what follows the attention and in the names of its weights. So a subclass adds a linear layer
    ``qkv`` from C to 3C channels, and ``forward``, whose inputs :meth:`tokens` takes, too.

    Args:
        num_heads (int): Heads h; a divisor of C.
        grouping (dict, optional): How tokens are grouped, for ``GROUPINGS.build``; None for global attention.
        block (int): Index of the block in its stage, from 0.
        count (ClusterCount): Clusters; one is global attention.
    """

    qkv: nn.Module

    def __init__(self, num_heads: int, grouping: dict | None, block: int, count: ClusterCount) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.count = count
        self.grouping = GROUPINGS.build(grouping) if grouping else None
        if self.grouping:
            self.grouping.block = block

    def project(self, x: Tensor) -> Tensor:
        """(B, N, C) -> queries, keys and values, (B, N, 3, h, d)."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1))

    def tokens(self, x: Tensor, size: tuple[int, int], rotary: Tensor | None = None) -> Tokens:
        """What attention and grouping see of (B, N, C), normalised, of a map of size (H', W'); see :class:`Tokens`."""
        return Tokens(self.project(x), x.unflatten(-1, (self.num_heads, -1)), (size[0], size[1]), rotary)

    def group(self, tokens: Tokens) -> Grouping | None:
        """Cut the tokens into clusters; None for global attention."""
        num_clusters = self.count.of(tokens.size[0] * tokens.size[1])
        return self.grouping(tokens, num_clusters) if self.grouping and num_clusters > 1 else None

    def clusters(self, *inputs: Any) -> TokenClusters:
        """Which tokens of the map attend to each other; the inputs are those of ``forward``."""
        tokens = self.tokens(*inputs)
        if self.grouping is None:
            return TokenClusters.single(tokens.qkv, tokens.size)
        batch, _, heads, _ = tokens.token.shape
        grouping = self.grouping(tokens, self.count.of(tokens.size[0] * tokens.size[1]))
        ids = cluster_ids(grouping).expand(batch, heads, -1)  # (B, h, N)
        scores = self.grouping.scores(tokens)  # (B, h, N)
        scores = None if scores is None else scores.unflatten(-1, tokens.size)
        return TokenClusters(ids.unflatten(-1, tokens.size), scores, self.grouping.score_name)

    def attended(self, token: int, *inputs: Any) -> Tensor:
        """What one token attends to.

        Args:
            token (int): Its raster index in the map.
            inputs (Any): Those of :meth:`clusters`.

        Returns:
            Tensor: (B, h, H', W') the share of each token of the map in what the token is given, 0 outside of its
            cluster; each map sums to 1. Left out are the shares of what is beside the map, such as a class token, and
            what is read of carriers.
        """
        tokens, ids = self.tokens(*inputs), self.clusters(*inputs).ids.flatten(2)
        logits = torch.einsum('bhd,bnhd->bhn', tokens.query[:, token], tokens.key) * tokens.query.shape[-1] ** -0.5
        shares = logits.masked_fill(ids != ids[..., token, None], -torch.inf).softmax(-1)  # (B, h, N)
        return shares.unflatten(-1, tokens.size)
