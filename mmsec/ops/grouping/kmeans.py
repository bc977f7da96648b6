"""K-means on keys: clusters around centres, made equal in size."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec import compat
from mmsec.ops.grouping.grouping import Grouping, part_of, part_start
from mmsec.ops.grouping.method import GROUPINGS, GroupingMethod, Tokens
from mmsec.ops.grouping.similarity import in_float

_GROUP = 32  # clusters that one level makes, at most, where there are groups of clusters
_SAMPLES = 32  # tokens that a centre learns from, on average


def cosines(x: Tensor, centers: Tensor, absent: Tensor | None = None) -> Tensor:
    """Cosine of unit tokens (L, n, d) with unit centres (L, K, d): (L, n, K); -inf with an absent last centre."""
    out = x @ centers.mT
    if absent is not None:
        out[..., -1].masked_fill_(absent[:, None], float('-inf'))
    return out


def lloyd(x: Tensor, centers: Tensor, num_iters: int, absent: Tensor | None = None) -> Tensor:
    """Move each centre to the mean direction of the tokens nearest to it, ``num_iters`` times.

    Tensors are those of :func:`cosines`. A centre without tokens stays where it is; of centres equally near, a token
    takes the first. Sums are products with a matrix of zeros and ones: deterministic on every device.
    """
    for _ in range(num_iters):
        members = cosines(x, centers, absent)
        nearest = members.argmax(-1, keepdim=True)
        sums = members.zero_().scatter_(-1, nearest, 1.0).mT @ x  # (L, K, d)
        centers = torch.where(sums.any(-1, keepdim=True), F.normalize(sums, dim=-1), centers)
    return centers


def balanced_order(x: Tensor, capacity: Tensor, num_iters: int) -> Tensor:
    """Cluster tokens around centres that each take a given number.

    Centres start at evenly spaced tokens and learn from evenly spaced tokens. Then every token goes to its nearest
    centre. Where more come than a cluster takes, those stay that would lose the most at their second nearest centre;
    the others fill the positions that are left.

    Args:
        x (Tensor): (L, n, d) tokens of length one, of L independent lists.
        capacity (Tensor): (L, K) int64, tokens of each cluster. Only the last one may be 0. Where they sum to less than
            n, the last tokens of the list do not count.
        num_iters (int): Iterations of :func:`lloyd`.

    Returns:
        Tensor: (L, n) int64, a permutation of each list: cluster after cluster, then what does not count.
    """
    num_tokens, num_centers = x.shape[1], capacity.shape[1]
    position = torch.arange(num_tokens, device=x.device)
    count = capacity.sum(-1, keepdim=True)  # (L, 1)
    counts = position < count  # (L, n)
    absent = capacity[:, -1] == 0

    num_samples = num_centers * _SAMPLES
    sample = _take(x, torch.arange(num_samples, device=x.device) * count // num_samples)  # (L, num_samples, d)
    centers = lloyd(sample, sample[:, _SAMPLES // 2 :: _SAMPLES], num_iters, absent)

    similarity = cosines(x, centers, absent)  # (L, n, K)
    best, nearest = similarity.max(-1)
    second = similarity.scatter_(-1, nearest[..., None], float('-inf')).amax(-1)
    loss = (best - second).clamp(0, 2)
    # One sort by centre and then by loss, the greatest first: the keys of centre c are in [4c, 4c + 2].
    key = torch.where(counts, nearest * 4 + (2 - loss), 4 * num_centers)
    key, order = key.sort(dim=-1, stable=True)
    center = nearest.gather(-1, order)

    numbers = torch.arange(num_centers, device=x.device).to(key.dtype).expand_as(capacity)
    first = torch.searchsorted(key, 4 * numbers)  # (L, K), where the tokens of each centre begin in the sorted list
    rank = position - first.gather(-1, center)
    stays = rank < capacity.gather(-1, center)
    kept = torch.minimum(torch.cat([first, count], -1).diff(), capacity)
    left = (capacity - kept).cumsum(-1)  # (L, K), positions left in the clusters up to each one
    number = (counts & ~stays).cumsum(-1) - 1  # (L, n), counts those that move
    cluster = torch.where(stays, center, torch.searchsorted(left, number, right=True).clamp_max(num_centers - 1))
    rank = torch.where(stays, rank, number + (capacity - left).gather(-1, cluster))
    start = capacity.cumsum(-1) - capacity
    position = torch.where(counts, start.gather(-1, cluster) + rank, position)
    return torch.empty_like(order).scatter_(-1, position, order)


# One operator for the compiler: it has a hundred steps, and shapes that depend on the size of the map in many ways.
@compat.custom_op('mmsec::kmeans_order', by_values=True)
def kmeans_order(key: Tensor, num_clusters: int, num_iters: int) -> Tensor:
    """Cluster keys (B, N, h, d), scaled to length one, by balanced k-means: (B, h, N) int64, cluster after cluster.

    More than 32 clusters are made on two levels: tokens are clustered into groups, and the tokens of a group into its
    clusters. One level would compare each token with all M centres, which takes many times as long where M is in the
    hundreds. A key that is not finite counts as zero.
    """
    batch, num_tokens, heads, _ = key.shape
    device = key.device
    lists = batch * heads
    with torch.autocast(device.type, enabled=False):
        # Numbers that are not finite have no order, and without one the positions below would be no permutation.
        x = F.normalize(in_float(key), dim=-1).nan_to_num().transpose(1, 2).flatten(0, 1)  # (B*h, N, d)
        num_groups = num_clusters if num_clusters <= _GROUP else -(-num_clusters // _GROUP)  # G
        cluster = part_start(torch.arange(num_groups + 1, device=device), num_clusters, num_groups)  # the first of each
        start = part_start(cluster, num_tokens, num_clusters)  # (G + 1,), the first position of each group
        order = balanced_order(x, start.diff().expand(lists, -1), num_iters)  # (B*h, N)
        if num_groups == num_clusters:
            return order.unflatten(0, (batch, heads))

        # A row for each group, as long as the largest may be; the last tokens of a shorter one do not count.
        group_size = -(-num_clusters // num_groups)  # clusters of the largest group
        length = group_size * -(-num_tokens // num_clusters)
        position = start[:-1, None] + torch.arange(length, device=device)  # (G, length)
        members = order[:, position.clamp_max(num_tokens - 1).flatten()]  # (B*h, G*length)
        rows = _take(x, members).unflatten(1, (num_groups, length)).flatten(0, 1)  # (B*h*G, length, d)
        ends = torch.minimum(cluster[:-1, None] + torch.arange(group_size + 1, device=device), cluster[1:, None])
        capacity = part_start(ends, num_tokens, num_clusters).diff()  # (G, group_size)
        within = balanced_order(rows, capacity.repeat(lists, 1), num_iters)  # (B*h*G, length)

    members = members.view_as(within).gather(-1, within).view_as(members)
    position = torch.arange(num_tokens, device=device)
    group = part_of(part_of(position, num_tokens, num_clusters), num_clusters, num_groups)
    return members[:, group * length + position - start[group]].unflatten(0, (batch, heads))


@kmeans_order.register_fake
def _(key: Tensor, num_clusters: int, num_iters: int) -> Tensor:
    batch, num_tokens, heads, _ = key.shape
    return key.new_empty(batch, heads, num_tokens, dtype=torch.int64)


@compat.flop_formula('kmeans_order')
def _flops(key_shape: Sequence[int], num_clusters: int, num_iters: int, *, out_shape: Sequence[int]) -> int:
    """Floating point operations of the products in :func:`kmeans_order`, two for each multiply-add.

    On each level every token has a cosine with every centre, and in each iteration the tokens that a centre learns from
    have one, and are summed up.
    """
    batch, num_tokens, heads, channels = key_shape
    num_groups = num_clusters if num_clusters <= _GROUP else -(-num_clusters // _GROUP)
    levels = [(1, num_tokens, num_groups)]  # lists of an image and head, tokens and centres of each
    if num_groups < num_clusters:
        group_size = -(-num_clusters // num_groups)
        levels.append((num_groups, group_size * -(-num_tokens // num_clusters), group_size))
    pairs = sum(lists * centers * (length + 2 * num_iters * _SAMPLES * centers) for lists, length, centers in levels)
    return 2 * batch * heads * channels * pairs


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of each list: (L, n, d) and (L, m) int64 -> (L, m, d)."""
    rows = index + torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, index.shape)


@GROUPINGS.register_module()
class KMeansGrouping(GroupingMethod):
    """Group similar keys around centres, by balanced k-means; see :func:`kmeans_order`.

    Args:
        num_iters (int): Iterations of Lloyd's algorithm, at least 1. Default: 3.

    Raises:
        ValueError: If ``num_iters`` is not a number from 1 up.
    """

    def __init__(self, num_iters: int = 3) -> None:
        super().__init__()
        if not isinstance(num_iters, int) or num_iters < 1:
            raise ValueError(f'num_iters must be a whole number from 1 up, got {num_iters!r}')
        self.num_iters = num_iters

    def forward(self, tokens: Tokens, num_clusters: int) -> Grouping:
        """Group the tokens; see :class:`GroupingMethod`."""
        return Grouping(kmeans_order(tokens.key.detach(), num_clusters, self.num_iters), num_clusters)


def largest_over_mean(key: Tensor, num_clusters: int, num_iters: int = 10) -> Tensor:
    """How unequal the clusters of plain k-means are: the size of the largest over the mean size.

    Lloyd's algorithm on all keys, scaled to length one. Centres start at evenly spaced keys, and each key belongs to
    its nearest centre.

    Args:
        key (Tensor): (B, N, h, d) keys.
        num_clusters (int): Clusters M, 1 <= M <= N.
        num_iters (int): Iterations. Default: 10.

    Returns:
        Tensor: (B, h), from 1 for equal clusters to M for one that holds all.
    """
    batch, num_tokens, heads, _ = key.shape
    with torch.autocast(key.device.type, enabled=False):
        x = F.normalize(in_float(key), dim=-1).transpose(1, 2).flatten(0, 1)  # (B*h, N, d)
        start = torch.arange(num_clusters, device=key.device) * num_tokens // num_clusters
        nearest = cosines(x, lloyd(x, x[:, start], num_iters)).argmax(-1)  # (B*h, N)
    sizes = nearest.new_zeros(len(x), num_clusters).scatter_add_(-1, nearest, torch.ones_like(nearest))
    return (sizes.amax(-1) * num_clusters / num_tokens).view(batch, heads)
