"""Who attends to whom: a permutation of the tokens, cut into clusters of equal size. It does not know who made it."""

from typing import NamedTuple

import torch
from torch import Tensor


class Grouping(NamedTuple):
    """Tokens sorted into contiguous clusters of equal size.

    Attributes:
        order (Tensor): (B, h, N) int64; ``order[b, h, i]`` is the raster index of the token at sorted position ``i``.
        num_clusters (int): Clusters M, 1 <= M <= N; their sizes are ``cluster_sizes(N, M)``.
    """

    order: Tensor
    num_clusters: int

    @property
    def inverse(self) -> Tensor:
        """(B, h, N) int64; ``inverse[b, h, n]`` is the sorted position of raster token ``n``."""
        positions = torch.arange(self.order.shape[-1], device=self.order.device).expand_as(self.order)
        return torch.empty_like(self.order).scatter_(-1, self.order, positions)


def cluster_sizes(num_tokens: int, num_clusters: int) -> tuple[int, int, int]:
    """Sizes of the clusters, equal to within one token.

    Sorted positions are dealt out in parts: first ``num_long`` clusters of ``length + 1`` tokens, then the others of
    ``length`` tokens. No token is padded, dropped or shared.

    Args:
        num_tokens (int): Tokens N.
        num_clusters (int): Clusters M, 1 <= M <= N.

    Returns:
        tuple[int, int, int]: ``(num_long, num_short, length)`` with
        ``num_long * (length + 1) + num_short * length == num_tokens``.

    Raises:
        ValueError: If ``num_clusters`` is not in [1, N].
    """
    if not 1 <= num_clusters <= num_tokens:
        raise ValueError(f'num_clusters must be in [1, {num_tokens}] for {num_tokens} tokens, got {num_clusters}')
    length, num_long = num_tokens // num_clusters, num_tokens % num_clusters
    return num_long, num_clusters - num_long, length


def cluster_ids(grouping: Grouping) -> Tensor:
    """(B, h, N) int64, the cluster of each token in raster order, 0 for the first of the sorted list to M - 1."""
    return part_of(grouping.inverse, grouping.inverse.shape[-1], grouping.num_clusters)


def part_of(position: Tensor, count: int, num_parts: int | Tensor) -> Tensor:
    """The part of a list of ``count`` positions that each int64 position is in, cut as :func:`cluster_sizes` says."""
    length, num_long = count // num_parts, count % num_parts
    split = num_long * (length + 1)  # positions in long parts
    return torch.where(position < split, position // (length + 1), num_long + (position - split) // length)


def part_start(part: Tensor, count: int | Tensor, num_parts: int) -> Tensor:
    """The first position of each int64 part, the inverse of :func:`part_of`; of ``num_parts`` itself the list's end."""
    return part * (count // num_parts) + part.clamp_max(count % num_parts)
