"""Semantic equitable clustering: which tokens attend to each other.

A grouping is a permutation of the tokens, its inverse, and the number of clusters the permuted list is cut into.
Another way of grouping is another function here that returns a :class:`Grouping`.
"""

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


def semantic_grouping(k: Tensor, num_clusters: int) -> Grouping:
    """Group tokens of similar score, in one pass, into clusters of equal size.

    Args:
        k (Tensor): (B, N, h, d) keys, as attention will use them (rotated; a positive scale changes nothing).
        num_clusters (int): Clusters M, 1 <= M <= N.

    Returns:
        Grouping: Tokens in ascending order of :func:`semantic_scores`. The sort is stable, so equal keys keep their
        raster order and equal inputs give equal groupings.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2.
    """
    scores = semantic_scores(k).contiguous()  # sorting along a strided dimension takes up to three times as long
    order = scores.argsort(dim=-1, stable=True)  # (B, h, N)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    inverse = torch.empty_like(order).scatter_(-1, order, places)
    return Grouping(order, inverse, num_clusters)


def window_grouping(height: int, width: int, num_clusters: int) -> Grouping:
    """Group tokens by place: windows as square as equal sizes allow, whatever the map holds.

    The map is cut into bands of rows, and each band, column by column, into windows. Where sizes do not fit the grid,
    the edges of bands and windows have a step of one token.

    Args:
        height (int): Rows H' of the map.
        width (int): Columns W' of the map.
        num_clusters (int): Windows M, 1 <= M <= H' * W'.

    Returns:
        Grouping: With B = h = 1; sizes are those of :func:`cluster_sizes`, as with every grouping.

    Raises:
        ValueError: If ``num_clusters`` is not in [1, H' * W'].
    """
    num_long, num_short, length = cluster_sizes(height * width, num_clusters)
    # Rows of windows that make a window as high as wide, and windows dealt to them evenly.
    num_bands = max(1, min(num_clusters, round((num_clusters * height / width) ** 0.5)))
    sizes = torch.tensor([length + 1] * num_long + [length] * num_short)
    band_ends = torch.stack([part.sum() for part in sizes.tensor_split(num_bands)]).cumsum(0)
    raster = torch.arange(height * width)
    band = torch.searchsorted(band_ends, raster, right=True)
    key = (band * width + raster % width) * height + raster // width  # by band, then column, then row
    order = key.argsort()[None, None]  # (1, 1, N)
    return Grouping(order, order.argsort(dim=-1), num_clusters)


def cluster_ranks(grouping: Grouping) -> Tensor:
    """Which cluster each token is in.

    Args:
        grouping (Grouping): The clusters.

    Returns:
        Tensor: (B, h, N) int64, in raster order: 0 for the first cluster of the sorted list, which holds the lowest
        scores, to M - 1 for the last.
    """
    place = grouping.inverse
    num_long, _, length = cluster_sizes(place.shape[-1], grouping.num_clusters)
    split = num_long * (length + 1)  # sorted places in long clusters
    return torch.where(place < split, place // (length + 1), num_long + (place - split) // length)
