"""Who attends to whom: a permutation of the tokens, cut into clusters of equal size. It does not know who made it."""

from typing import NamedTuple

import torch
from torch import Tensor


class Grouping(NamedTuple):
    """Tokens sorted into contiguous clusters of equal size.

    Attributes:
        order (Tensor): (B, h, N) int64; ``order[b, h, i]`` is the raster index of the token at sorted place ``i``.
        inverse (Tensor): (B, h, N) int64; ``inverse[b, h, n]`` is the sorted place of raster token ``n``.
        num_clusters (int): Clusters M, 1 <= M <= N; their sizes are ``cluster_sizes(N, M)``.
    """

    order: Tensor
    inverse: Tensor
    num_clusters: int


def grouping_from_order(order: Tensor, num_clusters: int) -> Grouping:
    """Cut tokens in a given order into clusters.

    Args:
        order (Tensor): (B, h, N) int64, a permutation of the raster indices in each row.
        num_clusters (int): Clusters M, 1 <= M <= N.

    Returns:
        Grouping: With the inverse permutation.
    """
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    inverse = torch.empty_like(order).scatter_(-1, order, places)
    return Grouping(order, inverse, num_clusters)


def cluster_sizes(num_tokens: int, num_clusters: int) -> tuple[int, int, int]:
    """Sizes of the clusters, equal to within one token.

    Sorted places are dealt out in runs: first ``num_long`` clusters of ``length + 1`` tokens, then the others of
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
    """Which cluster each token is in.

    Args:
        grouping (Grouping): The clusters.

    Returns:
        Tensor: (B, h, N) int64, in raster order: 0 for the first cluster of the sorted list to M - 1 for the last.
    """
    place = grouping.inverse
    num_long, _, length = cluster_sizes(place.shape[-1], grouping.num_clusters)
    split = num_long * (length + 1)  # sorted places in long clusters
    return torch.where(place < split, place // (length + 1), num_long + (place - split) // length)
