"""Who attends to whom: a permutation of the tokens, cut into clusters of equal size. It does not know who made it."""

from typing import NamedTuple

import torch
from torch import Tensor


class Grouping(NamedTuple):
    """Tokens sorted into contiguous clusters of equal size.

    Attributes:
        order (Tensor): (B, h, N) int64; ``order[b, h, i]`` is the raster index of the token at sorted place ``i``.
        num_clusters (int): Clusters M, 1 <= M <= N; their sizes are ``cluster_sizes(N, M)``.
    """

    order: Tensor
    num_clusters: int

    @property
    def inverse(self) -> Tensor:
        """(B, h, N) int64; ``inverse[b, h, n]`` is the sorted place of raster token ``n``."""
        places = torch.arange(self.order.shape[-1], device=self.order.device).expand_as(self.order)
        return torch.empty_like(self.order).scatter_(-1, self.order, places)


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
    return run_of(grouping.inverse, grouping.inverse.shape[-1], grouping.num_clusters)


def run_of(place: Tensor, count: int, num_runs: int | Tensor) -> Tensor:
    """Which run of a list each place is in, where the list is cut as :func:`cluster_sizes` says.

    Args:
        place (Tensor): int64 places from 0.
        count (int): Places in the list.
        num_runs (int | Tensor): Runs, at most one for each place.

    Returns:
        Tensor: int64 runs from 0, as many as places.
    """
    length, num_long = count // num_runs, count % num_runs
    split = num_long * (length + 1)  # places in long runs
    return torch.where(place < split, place // (length + 1), num_long + (place - split) // length)


def run_start(run: Tensor, count: int, num_runs: int) -> Tensor:
    """The first place of each run, the inverse of :func:`run_of`.

    Args:
        run (Tensor): int64 runs from 0; the number of runs itself gives the end of the list.
        count (int): Places in the list.
        num_runs (int): Runs, at most one for each place.

    Returns:
        Tensor: int64 places from 0, as many as runs.
    """
    return run * (count // num_runs) + run.clamp_max(count % num_runs)
