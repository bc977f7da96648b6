"""Attention inside clusters. It takes a grouping and does not know who made it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec.ops.clustering import Grouping, cluster_sizes


class _PermuteTokens(torch.autograd.Function):
    """Gather along the token axis whose backward is the gather by the inverse: no scatter-add, deterministic."""

    @staticmethod
    def forward(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        return x.gather(2, order[..., None].expand(-1, -1, -1, x.shape[-1]))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, order, inverse = inputs
        ctx.save_for_backward(order, inverse)

    @staticmethod
    def backward(ctx, grad: Tensor):
        order, inverse = ctx.saved_tensors
        return _PermuteTokens.apply(grad, inverse, order), None, None


def permute_tokens(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Reorder tokens per image and head; swap ``order`` and ``inverse`` to undo it bit for bit.

    Args:
        x (Tensor): (B, h, N, d).
        order (Tensor): (B, h, N) int64 permutation; output place ``i`` holds token ``order[..., i]``.
        inverse (Tensor): (B, h, N) int64, its inverse.

    Returns:
        Tensor: (B, h, N, d).
    """
    return _PermuteTokens.apply(x, order, inverse)


def cluster_attention(q: Tensor, k: Tensor, v: Tensor, grouping: Grouping | None) -> Tensor:
    """Softmax attention of each token over the tokens of its own cluster, scaled by d^(-1/2).

    Args:
        q (Tensor): (B, h, N, d) queries in raster order.
        k (Tensor): (B, h, N, d) keys.
        v (Tensor): (B, h, N, d) values.
        grouping (Grouping, optional): The clusters; None for attention over all tokens.

    Returns:
        Tensor: (B, h, N, d) in raster order.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2.
    """
    if grouping is None:
        return F.scaled_dot_product_attention(q, k, v)
    order, inverse, num_clusters = grouping
    q, k, v = (permute_tokens(x, order, inverse) for x in (q, k, v))
    num_long, num_short, length = cluster_sizes(q.shape[2], num_clusters)
    split = num_long * (length + 1)
    out = [
        _attention_in_runs(q[:, :, places], k[:, :, places], v[:, :, places], count)
        for places, count in ((slice(0, split), num_long), (slice(split, None), num_short))
        if count
    ]
    return permute_tokens(torch.cat(out, dim=2), inverse, order)


def _attention_in_runs(q: Tensor, k: Tensor, v: Tensor, count: int) -> Tensor:
    """Attention inside ``count`` contiguous runs of equal length; (B, h, n, d) in and out."""
    heads = q.shape[1]
    q, k, v = (x.unflatten(2, (count, -1)).flatten(1, 2) for x in (q, k, v))  # (B, h*count, L, d)
    out = F.scaled_dot_product_attention(q, k, v)
    return out.unflatten(1, (heads, count)).flatten(2, 3)
