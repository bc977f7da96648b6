"""Semantic equitable clustering: tokens that are similarly close to the mean key attend to each other."""

import torch
from torch import Tensor

from mmsec.ops.grouping.grouping import Grouping, grouping_from_order
from mmsec.ops.grouping.method import GroupingMethod, Tokens, register_grouping


def semantic_scores(k: Tensor) -> Tensor:
    """Cosine similarity of each key with the mean key of its image and head.

    Computed in float32, or in float64 for float64 keys, whatever autocast says.

    Args:
        k (Tensor): (B, N, h, d) keys.

    Returns:
        Tensor: (B, h, N) scores in [-1, 1], without gradient. An all-zero key scores 0.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2.
    """
    k = k.detach()
    k = k.to(torch.promote_types(k.dtype, torch.float32))
    center = k.mean(dim=1, keepdim=True)  # (B, 1, h, d)
    dot = (k * center).sum(dim=-1)  # (B, N, h)
    norm = torch.linalg.vector_norm(k, dim=-1) * torch.linalg.vector_norm(center, dim=-1)
    return (dot / norm.clamp_min(torch.finfo(k.dtype).tiny)).transpose(1, 2)


@register_grouping
class SemanticGrouping(GroupingMethod):
    """Group tokens of similar score, in one pass.

    Tokens stand in ascending order of :func:`semantic_scores`. The sort is stable, so equal keys keep their raster
    order and equal inputs give equal groupings.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2.
    """

    score_name = 'cosine with the mean key'

    def forward(self, tokens: Tokens, num_clusters: int) -> Grouping:
        """Group the tokens; see :class:`GroupingMethod`."""
        scores = self.scores(tokens).contiguous()  # sorting along a strided dimension takes up to three times as long
        return grouping_from_order(scores.argsort(dim=-1, stable=True), num_clusters)

    def scores(self, tokens: Tokens) -> Tensor:
        """(B, h, N) scores of the keys."""
        return semantic_scores(tokens.key)
