"""Attention inside clusters. It takes a grouping and does not know who made it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsec.ops.grouping import Grouping, Tokens, cluster_sizes
from mmsec.ops.kernels import backwards, conditions, cpu, fused_op, sdpa, triton
from mmsec.ops.layers import conv_residual

_GRID = 65535  # the largest second or third dimension of a grid on CUDA; PyTorch's kernels put batch and heads there


@fused_op(triton.ATTENTION)
def lepe_attention(tokens: Tokens, grouping: Grouping | None, lepe: nn.Module) -> Tensor:
    """Attention inside clusters, and a depthwise convolution of the values added to it.

    Args:
        tokens (Tokens): N = H * W tokens of h heads of width d.
        grouping (Grouping, optional): Their clusters; None for attention over all tokens.
        lepe (nn.Module): The convolution; keeps the size of (B, h*d, H, W) maps.

    Returns:
        Tensor: (B, H, W, h*d).

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2; LePE of CSWin (arXiv 2107.00652).
    """
    value = tokens.value.contiguous()
    out = cluster_attention(tokens.query, tokens.key, value, grouping)  # (B, N, h, d)
    value, out = (x.flatten(2).unflatten(1, tokens.size) for x in (value, out))  # (B, H, W, h*d)
    return conv_residual(value, lepe, out)


@fused_op(triton.QKV_ATTENTION)
def qkv_attention(qkv: Tensor, grouping: Grouping | None, protected: int = 0) -> Tensor:
    """:func:`cluster_attention` of queries, keys and values that lie side by side.

    Args:
        qkv (Tensor): (B, P + N, 3, h, d), as a linear layer makes them.
        grouping (Grouping, optional): The clusters of the N tokens; None for attention over all tokens.
        protected (int): Protected tokens P. Default: 0.

    Returns:
        Tensor: (B, P + N, h, d).
    """
    q, k, v = qkv.unbind(2)
    return cluster_attention(q, k, v, grouping, protected)


def cluster_attention(q: Tensor, k: Tensor, v: Tensor, grouping: Grouping | None, protected: int = 0) -> Tensor:
    """Softmax attention of each token over the tokens of its own cluster, scaled by d^(-1/2).

    Args:
        q (Tensor): (B, P + N, h, d) queries: P protected tokens, then N in raster order.
        k (Tensor): (B, P + N, h, d) keys.
        v (Tensor): (B, P + N, h, d) values.
        grouping (Grouping, optional): The clusters of the N tokens, of each image and head or of all; None for
            attention over all tokens.
        protected (int): Protected tokens P, such as a class token: they attend to all tokens, and all tokens to them.
            Default: 0.

    Returns:
        Tensor: (B, P + N, h, d) in the order of the queries.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2.
    """
    if grouping is None:
        return attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)  # (B, h, P+N, d) inside
    whole = k, v
    (front_q, q), (front_k, k), (front_v, v) = ((x[:, :protected], x[:, protected:]) for x in (q, k, v))
    batch, num_tokens, heads, _ = q.shape
    index, inverse = row_indices(grouping._replace(order=grouping.order.expand(batch, heads, -1)))
    rows = take_rows(index, inverse, *(x.reshape(-1, x.shape[-1]) for x in (q, k, v)))  # (B*N*h, d) each
    lists = batch * heads
    lengths = _lengths(num_tokens, grouping.num_clusters)
    parts = zip(*(x.split([lists * count * length for count, length in lengths]) for x in rows), strict=True)
    out = []
    for part, (count, length) in zip(parts, lengths, strict=True):
        # Clusters of all lists in one dimension: of one that may be 1, torch.compile would make a graph of its own.
        clusters_q, clusters_k, clusters_v = (x.unflatten(0, (lists * count, 1, length)) for x in part)
        if protected:
            clusters_k, clusters_v = (
                torch.cat([_for_each(x, count), of], dim=2) for x, of in ((front_k, clusters_k), (front_v, clusters_v))
            )
        out.append(_in_pieces(clusters_q, clusters_k, clusters_v).flatten(0, 2))
    (attended,) = take_rows(inverse, index, torch.cat(out) if len(out) > 1 else out[0])
    attended = attended.unflatten(0, (batch, num_tokens, heads))
    if not protected:
        return attended
    return torch.cat([cluster_attention(front_q, *whole, None), attended], dim=1)


def proportional_attention(q: Tensor, k: Tensor, v: Tensor, sizes: Tensor) -> Tensor:
    """Softmax attention of all tokens over all tokens, where a key counts as often as the tokens it was merged of.

    Args:
        q (Tensor): (B, T, h, d) queries.
        k (Tensor): (B, T, h, d) keys.
        v (Tensor): (B, T, h, d) values.
        sizes (Tensor): (B, T); how many tokens each was merged of, above 0 for one of each image. Its logarithm is
            added to the logits, so that nothing attends to a key of 0.

    Returns:
        Tensor: (B, T, h, d).

    Source: Token Merging (arXiv 2210.09461), section 3.
    """
    bias = sizes.log()[:, None, None].to(q.dtype)  # (B, 1, 1, T)
    return attention(*(x.transpose(1, 2) for x in (q, k, v)), bias).transpose(1, 2)  # (B, h, T, d) inside


@fused_op(cpu.ATTENTION_IN_PRODUCTS, sdpa.WITHOUT_CUDNN, details=sdpa.explain_choice)
def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention of all tokens over all tokens, scaled by d^(-1/2).

    Args:
        q (Tensor): (n, m, L, d) queries of n times m independent lists.
        k (Tensor): (n, m, S, d) keys.
        v (Tensor): (n, m, S, d) values.
        bias (Tensor, optional): (n, 1, 1, S), added to the logits. Default: None.

    Returns:
        Tensor: (n, m, L, d).
    """
    return F.scaled_dot_product_attention(q, k, v, bias)


def _in_pieces(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of (n, 1, L, d), as many lists at a time as a grid takes."""
    if conditions.makes_graph() or q.shape[0] <= _GRID:  # a graph cannot choose
        return attention(q, k, v)
    parts = zip(*(x.split(_GRID) for x in (q, k, v)), strict=True)
    return torch.cat([attention(*part) for part in parts])


def _for_each(x: Tensor, count: int) -> Tensor:
    """The protected tokens (B, P, h, d) of each list, for each of its ``count`` clusters: (B*h*count, 1, P, d)."""
    lists = x.transpose(1, 2).flatten(0, 1)[:, None, None]  # (B*h, 1, 1, P, d)
    return lists.expand(-1, count, -1, -1, -1).flatten(0, 1)


def row_indices(grouping: Grouping) -> tuple[Tensor, Tensor]:
    """(B*N*h,) int64: the grouping as one permutation of the rows (image, token, head), and the inverse permutation.

    Clusters come out one after the other, first those of one length of all images and heads, then those of the other.
    """
    order, num_clusters = grouping
    batch, heads, num_tokens = order.shape
    row = torch.arange(batch * num_tokens * heads, device=order.device)
    rows = row.view(batch, num_tokens, heads).transpose(1, 2).gather(-1, order)  # (B, h, N)
    lengths = [count * length for count, length in _lengths(num_tokens, num_clusters)]
    if conditions.makes_graph():
        index = _scattered(rows, lengths[0])
    else:
        index = torch.cat([part.flatten() for part in rows.split(lengths, -1)]) if len(lengths) > 1 else rows.flatten()
    return index, torch.empty_like(index).scatter_(0, index, row)


def _scattered(rows: Tensor, split: int) -> Tensor:
    """The first ``split`` of each list (B, h, N), then the rest of each; (B*N*h,).

    For graphs: torch.compile takes minutes to prove that the sizes of slices sum up.
    """
    batch, heads, num_tokens = rows.shape
    list_ = torch.arange(batch * heads, device=rows.device).view(batch, heads, 1)
    position = torch.arange(num_tokens, device=rows.device)
    rest = batch * heads * split + list_ * (num_tokens - split) - split
    positions = torch.where(position < split, list_ * split, rest) + position
    return torch.empty_like(rows).flatten().scatter_(0, positions.flatten(), rows.flatten())


@fused_op(backwards.ROWS_SIDE_BY_SIDE, backwards.ROWS_BY_INVERSE)
def take_rows(index: Tensor, inverse: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Permute rows; swap ``index`` and ``inverse`` to undo it bit for bit.

    Args:
        index (Tensor): (R,) int64 permutation; row ``i`` of a result is row ``index[i]`` of its tensor.
        inverse (Tensor): (R,) int64, its inverse; the backward takes rows by it, so gradients are deterministic.
        tensors (Tensor): (R, d) each, of one type.

    Returns:
        tuple[Tensor, ...]: (R, d) each.
    """
    return tuple(x.index_select(0, index) for x in tensors)


def _lengths(num_tokens: int, num_clusters: int) -> list[tuple[int, int]]:
    """How many clusters of which length stand in a sorted list; at most two kinds, no kind is empty."""
    num_long, num_short, length = cluster_sizes(num_tokens, num_clusters)
    if conditions.makes_graph():
        # One graph for maps with and without long clusters: where all are equal, the first is a kind of its own.
        # Written with // because Inductor would make a guard, and so a second graph, of max(num_long, 1).
        first = num_long + num_short // num_clusters
        return [(first, -(-num_tokens // num_clusters)), (num_clusters - first, length)]
    return [(num_long, length + 1), (num_short, length)] if num_long else [(num_short, length)]
