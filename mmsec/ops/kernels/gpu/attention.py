"""Attention inside clusters, forward and backward, with rotation and order in the same launch.

Tokens are gathered where they are needed and results written where their tokens lie: no map is permuted or rotated in
memory. A row of a gradient is written by one program, so there are no atomics. Sizes of maps are run-time numbers.
"""

import itertools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsec.ops.kernels.gpu import launch
from mmsec.ops.kernels.gpu.rotary import turn

# BQ queries against BK keys at a time. Whole: a program has all keys of a cluster, and so computes all gradients.
# Wide: more than 32 channels of a head, or float32, where larger tiles spill registers; published heads have 32.
TILES: dict[str, list[launch.Tile]] = {
    'attention_forward': [
        dict(BQ=64, BK=64, warps=4),
        dict(BQ=128, BK=64, warps=8),
        dict(BQ=64, BK=32, warps=4),
        dict(BQ=128, BK=128, warps=8),
    ],
    'attention_forward_wide': [dict(BQ=32, BK=32, warps=8)],
    'attention_whole_64': [dict(BQ=32, BK=64, warps=4), dict(BQ=32, BK=64, warps=8)],
    'attention_whole_128': [dict(BQ=32, BK=128, warps=8), dict(BQ=32, BK=128, warps=4)],
    'attention_queries': [dict(BQ=64, BK=64, warps=4), dict(BQ=128, BK=64, warps=8)],
    'attention_queries_wide': [dict(BQ=32, BK=32, warps=8)],
    'attention_keys': [dict(BQ=32, BK=64, warps=4), dict(BQ=32, BK=128, warps=8)],
    'attention_keys_wide': [dict(BQ=32, BK=32, warps=8)],
}
_HALF = (torch.float16, torch.bfloat16)
_SIZES = ['N', 'length', 'num_long', 'blocks', 's_image', 's_head']  # of maps: no value compiles anew


@triton.jit
def _cluster(length, num_long, blocks):
    """The block of this program, and the first place and the number of places of its cluster."""
    cluster = tl.program_id(0) // blocks
    start = cluster * length + tl.minimum(cluster, num_long)
    return tl.program_id(0) % blocks, start, length + (cluster < num_long).to(tl.int32)


@triton.jit
def _tokens(order, s_image, s_head, place, mask):
    """The tokens at sorted places, (R,) int64; 0 where there is none."""
    if order is not None:
        order += tl.program_id(2).to(tl.int64) * s_image + tl.program_id(1) * s_head
        token = tl.load(order + place, mask=mask, other=0)
    else:
        token = tl.where(mask, place, 0).to(tl.int64)
    return token


@triton.jit
def _at(x, N, stride, token, D: tl.constexpr):
    """Where this head's channels of tokens lie in a map (B, N, stride), (R, D)."""
    x += tl.program_id(2).to(tl.int64) * N * stride + tl.program_id(1) * D
    return x + token[:, None] * stride + tl.arange(0, D)[None, :]


@triton.jit
def _sorted(x, N, place):
    """Where a value of sorted places lies in (B, h, N), (R,)."""
    return x + (tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * N + place


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision='ieee')


@triton.jit(do_not_specialize=_SIZES)
def _forward(
    qkv, order, table, out, lse, N, length, num_long, blocks, stride, s_image, s_head,
    D: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """BQ queries of a cluster over all its keys, BK at a time, with the running maximum of flash attention."""
    block, start, size = _cluster(length, num_long, blocks)
    if block * BQ >= size:  # in a short cluster beside longer ones
        return
    width = tl.num_programs(1) * D
    LOGITS: tl.constexpr = D**-0.5 * 1.4426950408889634  # powers of 2 instead of e
    i = block * BQ + tl.arange(0, BQ)
    token = _tokens(order, s_image, s_head, start + i, i < size)
    q = tl.load(_at(qkv, N, stride, token, D), mask=(i < size)[:, None], other=0.0)  # (BQ, D)
    q = turn(q, table, token, False).to(q.dtype)
    top = tl.full([BQ], -float('inf'), tl.float32)
    total = tl.zeros([BQ], tl.float32)
    mixed = tl.zeros([BQ, D], tl.float32)
    for first in range(0, size, BK):
        j = first + tl.arange(0, BK)
        other = _tokens(order, s_image, s_head, start + j, j < size)
        at = _at(qkv, N, stride, other, D) + width
        k = tl.load(at, mask=(j < size)[:, None], other=0.0)  # (BK, D)
        v = tl.load(at + width, mask=(j < size)[:, None], other=0.0)
        k = turn(k, table, other, False).to(k.dtype)
        logits = tl.where((j < size)[None, :], _dot(q, tl.trans(k)) * LOGITS, -float('inf'))  # (BQ, BK)
        new = tl.maximum(top, tl.max(logits, 1))
        p = tl.exp2(logits - new[:, None])
        shrink = tl.exp2(top - new)
        total = total * shrink + tl.sum(p, 1)
        mixed = mixed * shrink[:, None] + _dot(p.to(v.dtype), v)
        top = new
    tl.store(_at(out, N, width, token, D), (mixed / total[:, None]).to(q.dtype), mask=(i < size)[:, None])
    tl.store(_sorted(lse, N, start + i), top + tl.log2(total), mask=i < size)


@triton.jit(do_not_specialize=_SIZES)
def _queries(
    grad, qkv, order, table, out, lse, delta, grad_qkv, N, length, num_long, blocks, stride, s_image, s_head,
    D: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Gradient of BQ queries of a cluster, and delta, the product of output and its gradient, for the keys."""
    block, start, size = _cluster(length, num_long, blocks)
    if block * BQ >= size:
        return
    width = tl.num_programs(1) * D
    SCALE: tl.constexpr = D**-0.5
    i = block * BQ + tl.arange(0, BQ)
    mask = (i < size)[:, None]
    token = _tokens(order, s_image, s_head, start + i, i < size)
    q = tl.load(_at(qkv, N, stride, token, D), mask=mask, other=0.0)  # (BQ, D), as all three
    g = tl.load(_at(grad, N, width, token, D), mask=mask, other=0.0)
    o = tl.load(_at(out, N, width, token, D), mask=mask, other=0.0)
    z = tl.load(_sorted(lse, N, start + i), mask=i < size, other=float('inf'))
    q = turn(q, table, token, False).to(q.dtype)
    product = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)  # (BQ,)
    tl.store(_sorted(delta, N, start + i), product, mask=i < size)
    grad_q = tl.zeros([BQ, D], tl.float32)
    for first in range(0, size, BK):
        j = first + tl.arange(0, BK)
        other = _tokens(order, s_image, s_head, start + j, j < size)
        at = _at(qkv, N, stride, other, D) + width
        k = tl.load(at, mask=(j < size)[:, None], other=0.0)  # (BK, D)
        v = tl.load(at + width, mask=(j < size)[:, None], other=0.0)
        k = turn(k, table, other, False).to(k.dtype)
        p = tl.exp2(_dot(q, tl.trans(k)) * (SCALE * 1.4426950408889634) - z[:, None])  # (BQ, BK)
        slope = tl.where((j < size)[None, :], p * (_dot(g, tl.trans(v)) - product[:, None]), 0.0)
        grad_q += _dot(slope.to(k.dtype), k)
    grad_q = turn(grad_q * SCALE, table, token, True)
    tl.store(_at(grad_qkv, N, 3 * width, token, D), grad_q.to(q.dtype), mask=mask)


@triton.jit(do_not_specialize=_SIZES)
def _keys(
    grad, qkv, order, table, lse, delta, grad_qkv, N, length, num_long, blocks, stride, s_image, s_head,
    D: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Gradients of BK keys and values of a cluster, over all its queries, BQ at a time.

    Without delta, these are all keys of the cluster: then delta is known here, and so is the gradient of the queries.
    """
    block, start, size = _cluster(length, num_long, blocks)
    if block * BK >= size:
        return
    width = tl.num_programs(1) * D
    SCALE: tl.constexpr = D**-0.5
    j = block * BK + tl.arange(0, BK)
    mask = (j < size)[:, None]
    token = _tokens(order, s_image, s_head, start + j, j < size)
    at = _at(qkv, N, stride, token, D) + width
    k = tl.load(at, mask=mask, other=0.0)  # (BK, D)
    v = tl.load(at + width, mask=mask, other=0.0)
    k = turn(k, table, token, False).to(k.dtype)
    grad_k = tl.zeros([BK, D], tl.float32)
    grad_v = tl.zeros([BK, D], tl.float32)
    for first in range(0, size, BQ):
        i = first + tl.arange(0, BQ)
        other = _tokens(order, s_image, s_head, start + i, i < size)
        q = tl.load(_at(qkv, N, stride, other, D), mask=(i < size)[:, None], other=0.0)  # (BQ, D), as g
        g = tl.load(_at(grad, N, width, other, D), mask=(i < size)[:, None], other=0.0)
        z = tl.load(_sorted(lse, N, start + i), mask=i < size, other=float('inf'))
        q = turn(q, table, other, False).to(q.dtype)
        p = tl.exp2(_dot(k, tl.trans(q)) * (SCALE * 1.4426950408889634) - z[None, :])  # (BK, BQ), 0 beyond the end
        p = tl.where(mask, p, 0.0)
        grad_v += _dot(p.to(g.dtype), g)
        slope = _dot(v, tl.trans(g))
        if delta is None:
            product = tl.sum(p * slope, 0)  # (BQ,)
        else:
            product = tl.load(_sorted(delta, N, start + i), mask=i < size, other=0.0)
        slope = (p * (slope - product[None, :])).to(q.dtype)
        grad_k += _dot(slope, q)
        if delta is None:
            grad_q = turn(_dot(tl.trans(slope), k) * SCALE, table, other, True)
            tl.store(_at(grad_qkv, N, 3 * width, other, D), grad_q.to(q.dtype), mask=(i < size)[:, None])
    to = _at(grad_qkv, N, 3 * width, token, D) + width
    tl.store(to, turn(grad_k * SCALE, table, token, True).to(k.dtype), mask=mask)
    tl.store(to + width, grad_v.to(k.dtype), mask=mask)


def forward(qkv: Tensor, order: Tensor | None, table: Tensor | None, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Softmax attention of each token over the tokens of its own cluster, scaled by d^(-1/2), in one launch.

    Queries and keys are rotated in float32 and rounded once, as :func:`mmsec.ops.apply_rotary` does.

    Args:
        qkv (Tensor): (B, N, 3, h, d) as a linear layer leaves them, with any stride of tokens; see :func:`serves`.
        order (Tensor, optional): (B or 1, h or 1, N) int64, tokens in sorted places; None for their own order.
        table (Tensor, optional): (N, d/2, 2) float32 from :func:`mmsec.ops.rotary_table`; None for no rotation.
        num_clusters (int): Clusters M of the sizes that :func:`mmsec.ops.cluster_sizes` gives.

    Returns:
        tuple[Tensor, Tensor]: (B, N, h*d) in the order of the tokens, and (B, h, N) float32, the logarithm to base 2
        of each sorted query's sum of exponentials, for :func:`backward`.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2; FlashAttention-2 (arXiv 2307.08691).
    """
    batch, num_tokens, _, heads, width = qkv.shape
    out = torch.empty(batch, num_tokens, heads * width, dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty(batch, heads, num_tokens, dtype=torch.float32, device=qkv.device)
    _launch(_forward, 'attention_forward', 'BQ', qkv, order, num_clusters, qkv, order, table, out, lse)
    return out, lse


def backward(
    grad: Tensor,
    qkv: Tensor,
    order: Tensor | None,
    table: Tensor | None,
    out: Tensor | None,
    lse: Tensor,
    num_clusters: int,
) -> Tensor:
    """Gradient of ``qkv``, (B, N, 3, h, d): in one launch for clusters that are :func:`whole`, else in two.

    ``grad`` (B, N, h*d), contiguous, is that of ``out``, which may be None where clusters are whole; other arguments
    are what :func:`forward` was given and what it gave.
    """
    to = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    place = qkv, order, num_clusters
    if size := whole(qkv, num_clusters):
        _launch(_keys, f'attention_whole_{size}', 'BK', *place, grad, qkv, order, table, lse, None, to)
        return to
    delta = torch.empty_like(lse)
    _launch(_queries, 'attention_queries', 'BQ', *place, grad, qkv, order, table, out, lse, delta, to)
    _launch(_keys, 'attention_keys', 'BK', *place, grad, qkv, order, table, lse, delta, to)
    return to


def whole(qkv: Tensor, num_clusters: int) -> int:
    """Places, 64 or 128, in which one program of the backward holds a cluster; 0 where it takes several."""
    longest = -(-qkv.shape[1] // num_clusters)
    return 0 if _wide(qkv) or longest > 128 else 64 if longest <= 64 else 128


def _wide(qkv: Tensor) -> bool:
    """Whether a head is one for small tiles; float32 is, as its products are not on tensor cores."""
    return qkv.dtype not in _HALF or qkv.shape[-1] > 32


def _launch(
    kernel: Any, name: str, block: str, qkv: Tensor, order: Tensor | None, num_clusters: int, *tensors: Tensor | None
) -> None:
    """Start a kernel for each block, 'BQ' or 'BK', of each cluster, head and image."""
    batch, num_tokens, _, heads, width = qkv.shape
    length, num_long = divmod(num_tokens, num_clusters)
    longest = length + (num_long > 0)
    name += '_wide' * _wide(qkv)
    tile = launch.tile(name, f'{qkv.dtype} d{width} L{min(triton.next_power_of_2(longest), 1024)}', TILES[name])
    blocks = triton.cdiv(longest, tile[block])
    s_image, s_head = (0, 0) if order is None else (order.stride(i) if order.shape[i] > 1 else 0 for i in (0, 1))
    launch.launch(
        kernel,
        (num_clusters * blocks, heads, batch),
        *tensors,
        *(num_tokens, length, num_long, blocks, qkv.stride(1), s_image, s_head),
        *(width, tile['BQ'], tile['BK']),
        warps=tile['warps'],
    )


def serves(qkv: Tensor, order: Tensor | None, table: Tensor | None, num_clusters: int = 1) -> str | None:
    """Why the kernels cannot take such tensors, or None."""
    batch, num_tokens, _, heads, width = qkv.shape
    if not 1 <= num_clusters <= num_tokens:
        return f'not for {num_clusters} clusters of {num_tokens} tokens'
    if order is not None and tuple(order.shape) not in list(itertools.product((1, batch), (1, heads), (num_tokens,))):
        return f'not for an order {tuple(order.shape)} of {tuple(qkv.shape)}'
    if table is not None and table.numel() != num_tokens * width:
        return f'not for a rotary table {tuple(table.shape)} of {tuple(qkv.shape)}'
    if width not in (16, 32, 64, 128):
        return f'not for heads of {width} channels'
    if qkv.dtype not in _HALF and (qkv.dtype != torch.float32 or width > 64):
        return f'not for heads of {width} channels in {qkv.dtype}'
    stride = qkv.stride(1)
    if (
        qkv.stride() != (num_tokens * stride, stride, heads * width, width, 1) or stride % 16
    ):  # else single elements are loaded
        return f'not for strides {qkv.stride()} of queries, keys and values'
    if order is not None and (order.dtype != torch.int64 or order.stride(-1) != 1):
        return f'not for an order of {order.dtype} and strides {order.stride()}'
    if table is not None and (table.dtype != torch.float32 or not table.is_contiguous()):
        return f'not for a rotary table of {table.dtype} and strides {table.stride()}'
    return None


def variants() -> list[launch.Variant]:
    """What a check compiles: all tiles of narrow heads in half precision, and the first one of all others."""
    known: dict[str, Any] = dict.fromkeys([*_SIZES, 'stride'], 'i32') | {'order': '*i64'}
    known |= dict.fromkeys(('table', 'lse', 'delta'), '*fp32')
    kernels = {'forward': _forward, 'queries': _queries, 'keys': _keys, 'whole_64': _keys, 'whole_128': _keys}
    others = (('*bf16', 64), ('*bf16', 128), ('*fp32', 32), ('*fp32', 64))
    found = []
    for name, kernel in kernels.items():
        tiles = TILES[f'attention_{name}']
        cases: list[dict[str, Any]] = [dict(tile, D=32, maps='*bf16') for tile in tiles]
        cases += [dict(tiles[0], D=16, maps='*fp16'), dict(tiles[0], D=32, maps='*bf16', order=None, table=None)]
        cases += [
            dict(tile, D=width, maps=maps) for tile in TILES.get(f'attention_{name}_wide', ()) for maps, width in others
        ]
        for case in cases:
            case |= {'delta': None} if name[:5] == 'whole' else {}
            found.append(launch.variant(kernel, case, known, case['maps']))
    return found
