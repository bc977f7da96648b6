"""Density peaks of tokens (DPC-kNN): tokens around the same peak of density become one.

The N x N distances exist one block at a time, and most tokens need only one pass over them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mmsec import compat
from mmsec.ops.merging.merging import Merging
from mmsec.ops.merging.nearest import Candidates, squared_distances, take_tokens

NUM_NEIGHBORS = 5
"""Nearest tokens that a density is the mean of, the token itself included."""


def density_peak_merging(x: Tensor, num_clusters: Sequence[int], region_size: int | None = None) -> tuple[Merging, ...]:
    """Merge tokens around the peaks of their density, at several scales from one look at the density.

    The distance of two tokens is Euclidean, over sqrt(C). The density of a token is
    ``exp(-mean of the squared distances to its 5 nearest tokens)``, itself included; maps of fewer tokens take all of
    them. Its separation is the distance to the nearest token of higher density. The centres of a scale are the tokens
    of the highest density * separation; the densest token comes first. All other tokens go to the nearest centre.

    No random numbers are drawn. Wherever two are equal, the lower index wins: of tokens for density and centres, of
    clusters for the nearest centre. Computed in float32, or in float64 for float64 tokens, whatever autocast
    and the switches for TF32 say.

    Time is O(N^2 C). With ``region_size`` the map is cut into regions by :func:`region_grid`, and tokens see only
    their own region, so that time is O(N * region_size * C). Centres are dealt to regions in proportion to their tokens
    (:func:`deal_centers`). A map of one region gives the exact result, bit for bit.

    Args:
        x (Tensor): (B, H, W, C) tokens in their positions on the map, N = H*W.
        num_clusters (Sequence[int]): Clusters K of each scale, 1 <= K <= N.
        region_size (int, optional): Most tokens of a region; None for the whole map.

    Returns:
        tuple[Merging, ...]: One for each scale, of N tokens into K, without gradient. In each region clusters are in
        descending order of density * separation of their centres; regions come in raster order.

    Raises:
        ValueError: If a number of clusters is not in [1, N], or ``region_size`` gives more regions than clusters.

    Source: ClusTR (arXiv 2208.13138); the clustering is DPC-kNN (Du et al., Knowledge-Based Systems 2016).
    """
    assignments = _density_peaks(x.detach(), x.new_empty(0, *num_clusters), region_size)
    return tuple(Merging.from_assignment(*pair) for pair in zip(assignments.unbind(1), num_clusters, strict=True))


def region_grid(height: int, width: int, region_size: int | None) -> tuple[int, int]:
    """Rows and columns of regions that a map is cut into.

    The largest region holds at most ``region_size`` tokens, and would hold more with one row or column of regions less.
    Of all such grids the one with regions nearest to squares is taken, and of equals the one with fewer rows.

    Args:
        height (int): Rows H of the map.
        width (int): Columns W of the map.
        region_size (int, optional): Most tokens of a region, at least 1; None for one region.

    Returns:
        tuple[int, int]: Rows and columns of regions; (1, 1) where the map has no more than ``region_size`` tokens.
    """
    if region_size is None or height * width <= region_size:
        return 1, 1
    if region_size < 1:
        raise ValueError(f'region_size must be at least 1 token, got {region_size}')
    grids = []
    fewest: float = math.inf
    for rows in range(1, height + 1):
        widest = region_size // -(-height // rows)  # tokens in a row of a region
        if not widest:
            continue
        columns = -(-width // widest)
        if columns < fewest:
            fewest = columns
            grids.append((abs(math.log(height * columns / (width * rows))), rows, columns))
    _, rows, columns = min(grids)
    return rows, columns


def deal_centers(num_clusters: int, sizes: Sequence[int]) -> list[int]:
    """How many of K centres each region gets: at least 1, at most its tokens.

    Centres are dealt in proportion to tokens: whole shares first, then one each to the largest remainders. A region
    that is left without a centre then takes one from the region that has most. K that does not fit is a ValueError.
    """
    total = sum(sizes)
    if not 1 <= num_clusters <= total:
        raise ValueError(f'num_clusters must be in [1, {total}] for {total} tokens, got {num_clusters}')
    if num_clusters < len(sizes):
        raise ValueError(
            f'{len(sizes)} regions of at most {max(sizes)} tokens are too many for {num_clusters} clusters: '
            f'give region_size at least 4 times the tokens of a cluster, {4 * -(-total // num_clusters)}'
        )
    shares = [divmod(num_clusters * size, total) for size in sizes]
    counts = [whole for whole, _ in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda region: -shares[region][1])
    for region in by_remainder[: num_clusters - sum(counts)]:
        counts[region] += 1
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


# One operator for the compiler: the loops inside depend on the size of the map, and their lengths on the tokens.
@compat.custom_op('mmsec::density_peaks', by_values=True)
def _density_peaks(x: Tensor, clusters: Tensor, region_size: int | None) -> Tensor:
    """(B, H, W, C) -> (B, number of scales, H*W) int64, the cluster of each token.

    How many clusters each scale has is the shape of ``clusters``, behind a 0: numbers would be constants of a trace.
    """
    batch, height, width, channels = x.shape
    num_clusters = clusters.shape[1:]
    x = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1, 2)  # (B, N, C)
    out = torch.empty(batch, len(num_clusters), height * width, dtype=torch.int64, device=x.device)
    positions = _regions(height, width, region_size, x.device)
    dealt = [deal_centers(count, [len(position) for position in positions]) for count in num_clusters]
    first = [torch.tensor([0, *counts[:-1]], device=x.device).cumsum(0) for counts in dealt]
    # Regions of as many tokens and centres are computed as images of one batch.
    kinds: dict[tuple[int, ...], list[int]] = {}
    for region, position in enumerate(positions):
        kinds.setdefault((len(position), *(counts[region] for counts in dealt)), []).append(region)
    with _float32_products(x.device.type):
        for (num_tokens, *counts), regions in kinds.items():
            position = torch.stack([positions[region] for region in regions])  # (R, n)
            found = _cluster(x[:, position].view(-1, num_tokens, channels), counts)  # (B*R, n) of each scale
            for scale, ids in enumerate(found):
                out[:, scale, position] = ids.view(batch, *position.shape) + first[scale][regions, None]
    return out


@_density_peaks.register_fake
def _(x: Tensor, clusters: Tensor, region_size: int | None) -> Tensor:
    return x.new_empty(x.shape[0], clusters.dim() - 1, x.shape[1] * x.shape[2], dtype=torch.int64)


@compat.flop_formula('density_peaks')
def _flops(
    x_shape: Sequence[int], clusters_shape: Sequence[int], region_size: int | None, *, out_shape: Sequence[int]
) -> int:
    """Floating point operations of the products in :func:`density_peak_merging`, two for each multiply-add.

    In a region of n tokens these are the n x n distances for the density, and for K centres (n - K) x K distances to
    them. Distances of peaks to denser tokens are left out: a few in a hundred of n x n, and how many depends on the
    image.
    """
    batch, height, width, channels = x_shape
    sizes = [len(position) for position in _regions(height, width, region_size, torch.device('cpu'))]
    pairs = sum(size**2 for size in sizes)
    for count in clusters_shape[1:]:
        pairs += sum((size - dealt) * dealt for size, dealt in zip(sizes, deal_centers(count, sizes), strict=True))
    return 2 * batch * pairs * channels


def _regions(height: int, width: int, region_size: int | None, device: torch.device) -> list[Tensor]:
    """The tokens of each region, (n,) int64 positions in raster order."""
    rows, columns = region_grid(height, width, region_size)
    raster = torch.arange(height * width, device=device).view(height, width)
    return [part.flatten() for band in raster.tensor_split(rows) for part in band.tensor_split(columns, dim=1)]


@contextmanager
def _float32_products(device: str) -> Iterator[None]:
    """Products of float32 tensors in float32: not in the type of autocast, and not in TF32.

    Those are too coarse for the difference between two distances to be seen.
    """
    matmul = torch.backends.cuda.matmul
    switch, full = compat.float32_switch()
    before = getattr(matmul, switch)
    setattr(matmul, switch, full)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        setattr(matmul, switch, before)


def _cluster(x: Tensor, num_clusters: Sequence[int]) -> list[Tensor]:
    """Clusters of the tokens (B, N, C) of whole maps or regions: (B, N) int64 for each scale."""
    # Squared distances come from products. Around the mean the products are small, and so is their rounding error.
    x = (x - x.mean(dim=1, keepdim=True)) / x.shape[-1] ** 0.5
    neighbors, distances = _nearest_tokens(x, min(NUM_NEIGHBORS, x.shape[1]))  # (B, N, 5) each, distances squared
    sparsity = distances.mean(dim=-1)  # (B, N), minus the logarithm of the density
    separation = _squared_separation(x, sparsity, neighbors, distances)  # (B, N)
    # The logarithm of density * separation: it has the same order and does not vanish where tokens are far apart.
    score = separation.log() / 2 - sparsity
    order = score.argsort(dim=-1, descending=True, stable=True)  # (B, N), centres first
    x = take_tokens(x, order)
    clusters = []
    for count in num_clusters:
        centers = torch.arange(count, device=x.device).expand(x.shape[0], -1)  # each is in its own cluster
        sorted_clusters = torch.cat([centers, _nearest_center(x[:, count:], x[:, :count])], dim=1)  # (B, N)
        clusters.append(torch.empty_like(order).scatter_(1, order, sorted_clusters))
    return clusters


def _nearest_tokens(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` nearest tokens of each token, itself included, and their squared distances: (B, N, count) each."""
    batch, num_tokens, _ = x.shape
    index = torch.empty(batch, num_tokens, count, dtype=torch.int64, device=x.device)
    distances = x.new_empty(index.shape)
    candidates = Candidates(x)
    for images, rows in candidates.blocks(num_tokens):
        closeness = candidates.closeness(x[images, rows], images)  # (b, r, N)
        closeness.diagonal(rows.start, 1, 2).fill_(math.inf)
        index[images, rows] = candidates.largest(closeness, count)
        distances[images, rows] = squared_distances(x[images, rows], x[images], index[images, rows])
    return index, distances


def _squared_separation(x: Tensor, sparsity: Tensor, neighbors: Tensor, distances: Tensor) -> Tensor:
    """(B, N) squared distance of each token to the nearest denser one; infinite for the densest.

    The definition gives the densest token the largest distance on the map. As its density is the highest too, nothing
    can have a higher score, and any larger number puts it first as well.
    """
    rank = sparsity.argsort(dim=-1, stable=True).argsort(dim=-1)  # (B, N), 0 for the densest
    is_denser = rank.gather(1, neighbors.flatten(1)).view_as(neighbors) < rank[..., None]  # (B, N, 5)
    separation = distances.masked_fill(~is_denser, math.inf).amin(dim=-1)  # (B, N)
    # A denser token among the nearest ones is the nearest denser one. Only peaks, a few in a hundred tokens, have none.
    is_peak = separation.isinf()
    peaks = is_peak.int().argsort(dim=-1, descending=True, stable=True)[:, : int(is_peak.sum(dim=-1).max())]  # (B, P)
    found = x.new_empty(peaks.shape)
    candidates = Candidates(x)
    for images, part in candidates.blocks(peaks.shape[1]):
        index = peaks[images, part]  # (b, p)
        tokens = take_tokens(x[images], index)  # (b, p, C)
        closeness = candidates.closeness(tokens, images)  # (b, p, N)
        is_sparser = rank[images, None] >= rank[images].gather(1, index)[..., None]  # (b, p, N)
        closeness[..., : x.shape[1]].masked_fill_(is_sparser, -math.inf)
        nearest = candidates.largest(closeness, 1)
        found[images, part] = squared_distances(tokens, x[images], nearest)[..., 0]
    found = torch.where(is_peak.gather(1, peaks), found, separation.gather(1, peaks))  # images have up to P peaks
    return separation.scatter(1, peaks, found).masked_fill(rank == 0, math.inf)


def _nearest_center(x: Tensor, centers: Tensor) -> Tensor:
    """The nearest centre (B, K, C) of each token (B, R, C), the first of equals: (B, R) int64."""
    index = torch.empty(x.shape[:2], dtype=torch.int64, device=x.device)
    candidates = Candidates(centers)
    for images, rows in candidates.blocks(x.shape[1]):
        index[images, rows] = candidates.largest(candidates.closeness(x[images, rows], images), 1)[..., 0]
    return index
