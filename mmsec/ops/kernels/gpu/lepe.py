"""Attention inside clusters with its depthwise position term (LePE), forward and backward."""

from typing import Any

import torch
from torch import Tensor

from mmsec.ops.kernels.gpu import attention, depthwise, launch


class LepeAttention(torch.autograd.Function):
    """:func:`lepe_attention` with gradients. Keeps x, the order, 4 bytes a token and head, and what backward needs."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        heads: int,
        order: Tensor | None,
        table: Tensor | None,
        num_clusters: int,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        qkv, values = _parts(x, heads)
        out, lse = attention.forward(qkv, order, table, num_clusters)
        ctx.heads, ctx.num_clusters = heads, num_clusters
        ctx.save_for_backward(x, order, table, None if attention.whole(qkv, num_clusters) else out, lse, weight, bias)
        return _with_lepe(values, weight, bias, out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        launch.refuse_second_derivatives()
        x, order, table, out, lse, weight, bias = ctx.saved_tensors
        qkv, values = _parts(x, ctx.heads)
        grad = depthwise.dense(grad)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[5] or ctx.needs_input_grad[6]:
            grad_weight, grad_bias = depthwise.weight_gradient(grad, values, weight, bias, False)
        if ctx.needs_input_grad[0]:
            grad_x = attention.backward(grad.flatten(1, 2), qkv, order, table, out, lse, ctx.num_clusters).view(x.shape)
            if weight is not None:
                _, grad_values = _parts(grad_x, ctx.heads)
                depthwise.input_gradient(grad, weight, grad_values, out=grad_values)
        return grad_x, None, None, None, None, grad_weight, grad_bias


def lepe_attention(
    x: Tensor,
    heads: int,
    order: Tensor | None,
    table: Tensor | None,
    num_clusters: int,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Attention inside clusters plus a depthwise convolution of the values (LePE), in two launches.

    Args:
        x (Tensor): (B, H, W, 3C), queries, keys and values of the heads.
        heads (int): Heads h.
        order (Tensor, optional): As in :func:`attention.forward`, like ``table`` and ``num_clusters``.
        table (Tensor, optional): As above.
        num_clusters (int): As above.
        weight (Tensor, optional): (C, 1, K, K) of the convolution; None for attention alone.
        bias (Tensor, optional): (C,).

    Returns:
        Tensor: (B, H, W, C).

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2; LePE: CSWin (arXiv 2107.00652), section 3.2.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return LepeAttention.apply(x, heads, order, table, num_clusters, weight, bias)
    qkv, values = _parts(x, heads)
    out, _ = attention.forward(qkv, order, table, num_clusters)
    return _with_lepe(values, weight, bias, out)


def _with_lepe(values: Tensor, weight: Tensor | None, bias: Tensor | None, out: Tensor) -> Tensor:
    """What attention gave (B, N, C), and the convolution of the values (B, H, W, C) if there is one."""
    out = out.view(values.shape)
    return out if weight is None else depthwise.forward(values, weight, bias, out, False)


def _parts(x: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """The map (B, H, W, 3C) as (B, H*W, 3, h, d), and the values in it, (B, H, W, C)."""
    return x.flatten(1, 2).unflatten(2, (3, heads, -1)), x[..., x.shape[-1] // 3 * 2 :]


def serves(
    x: Tensor,
    heads: int,
    order: Tensor | None,
    table: Tensor | None,
    num_clusters: int,
    weight: Tensor,
    bias: Tensor | None,
) -> str | None:
    """Why the kernels cannot take such tensors, or None."""
    qkv, values = _parts(x, heads)
    return attention.serves(qkv, order, table, num_clusters) or depthwise.serves(values, weight, bias, None)
