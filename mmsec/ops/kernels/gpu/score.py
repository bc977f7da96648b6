"""Similarity of each token with the mean token of its image and head, rotated on the way. Triton, two launches."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsec.ops.kernels.gpu import launch
from mmsec.ops.kernels.gpu.rotary import turn

METRICS = ('cosine', 'dot', 'euclidean')
# BT tokens at a time; the mean is summed in so many PARTS, whatever the size of the map.
TILES: dict[str, list[launch.Tile]] = {
    'score_sums': [dict(BT=64, PARTS=64, warps=4), dict(BT=128, PARTS=64, warps=4), dict(BT=64, PARTS=128, warps=4)],
    'scores': [dict(BT=128, warps=4), dict(BT=64, warps=4), dict(BT=256, warps=4)],
}
_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit
def _rows(key, table, N, stride, token, D: tl.constexpr):
    """Rotated tokens (R, D), float32, rounded to the type of the keys; 0 beyond the last."""
    known = tl.where(token < N, token, 0).to(tl.int64)
    key += tl.program_id(2).to(tl.int64) * N * stride + tl.program_id(1) * D
    at = key + known[:, None] * stride + tl.arange(0, D)[None, :]
    x = tl.load(at, mask=(token < N)[:, None], other=0.0)
    return turn(x, table, known, False).to(x.dtype).to(tl.float32)


@triton.jit(do_not_specialize=['N'])
def _sums(key, table, sums, N, stride, D: tl.constexpr, BT: tl.constexpr, PARTS: tl.constexpr):
    """Sum of the tokens of one of PARTS runs, to sums (B, h, PARTS, D)."""
    part = tl.program_id(0)
    run = tl.cdiv(N, PARTS)
    total = tl.zeros([BT, D], tl.float32)
    for first in range(0, run, BT):
        i = first + tl.arange(0, BT)
        total += _rows(key, table, N, stride, tl.where(i < run, part * run + i, N), D)
    at = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * PARTS + part
    tl.store(sums + at * D + tl.arange(0, D), tl.sum(total, 0))


@triton.jit(do_not_specialize=['N'])
def _scores(
    key, table, sums, scores, N, stride,
    METRIC: tl.constexpr, MAGNITUDE: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Scores of BT tokens, to scores (B, h, N)."""
    list_ = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    parts = (list_ * PARTS + tl.arange(0, PARTS))[:, None] * D + tl.arange(0, D)[None, :]
    mean = tl.div_rn(tl.sum(tl.load(sums + parts), 0), N.to(tl.float32))  # (D,)
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    x = _rows(key, table, N, stride, token, D)  # (BT, D)
    if METRIC == 'euclidean':
        difference = x - mean[None, :]
        score = -tl.sqrt_rn(tl.sum(difference * difference, 1))
    else:
        score = tl.sum(x * mean[None, :], 1)
    if METRIC == 'cosine':
        norm = tl.sqrt_rn(tl.sum(x * x, 1)) * tl.sqrt_rn(tl.sum(mean * mean, 0))
        score = tl.div_rn(score, tl.maximum(norm, 1.1754943508222875e-38))  # the smallest normal number
    if MAGNITUDE:
        score = tl.abs(score)
    tl.store(scores + list_ * N + token, score, mask=token < N)


def semantic_scores(key: Tensor, table: Tensor | None, metric: str, magnitude: bool) -> Tensor:
    """:func:`mmsec.ops.grouping.semantic.semantic_scores` of rotated tokens: their similarity with the mean one.

    Args:
        key (Tensor): (B, N, h, d), a slice of what a linear layer leaves, with any stride of tokens; see
            :func:`serves`.
        table (Tensor, optional): (N, d/2, 2) float32 from :func:`mmsec.ops.rotary_table`; None for no rotation.
            Rotated tokens are rounded to their type first.
        metric (str): 'cosine', 'dot' or 'euclidean'.
        magnitude (bool): Whether to take the absolute value.

    Returns:
        Tensor: (B, h, N) float32, without gradient.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2.
    """
    batch, num_tokens, heads, width = key.shape
    name = f'd{width} {key.dtype}'
    tile = launch.tile('score_sums', name, TILES['score_sums'])
    parts, place = tile['PARTS'], (num_tokens, key.stride(1))
    sums = torch.empty(batch, heads, parts, width, dtype=torch.float32, device=key.device)
    scores = torch.empty(batch, heads, num_tokens, dtype=torch.float32, device=key.device)
    grid = parts, heads, batch
    launch.launch(_sums, grid, key, table, sums, *place, width, tile['BT'], parts, warps=tile['warps'])
    tile = launch.tile('scores', name, TILES['scores'])
    grid, constants = (triton.cdiv(num_tokens, tile['BT']), heads, batch), (metric, magnitude, width, tile['BT'], parts)
    launch.launch(_scores, grid, key, table, sums, scores, *place, *constants, warps=tile['warps'])
    return scores


def serves(key: Tensor, table: Tensor | None, metric: str) -> str | None:
    """Why the kernels cannot take such tensors, or None."""
    _, num_tokens, _, width = key.shape
    stride = key.stride(1)
    if metric not in METRICS or key.dtype not in _TYPES or width not in (16, 32, 64, 128):
        return f'not for {metric!r} of heads of {width} channels in {key.dtype}'
    if key.stride() != (num_tokens * stride, stride, width, 1) or stride % 16:  # else single elements are loaded
        return f'not for strides {key.stride()}'
    if table is not None and (table.dtype != torch.float32 or not table.is_contiguous()):
        return f'not for a rotary table of {table.dtype} and strides {table.stride()}'
    return None


def variants() -> list[launch.Variant]:
    """What a check compiles: all tiles for published heads, and the first one for others."""
    found = []
    for name, kernel in (('score_sums', _sums), ('scores', _scores)):
        tiles = TILES[name]
        cases: list[dict[str, Any]] = [dict(tile, D=32, maps='*bf16', METRIC='cosine') for tile in tiles]
        cases += [dict(tiles[0], D=16, maps='*fp16', METRIC='dot', table=None)]
        cases += [dict(tiles[0], D=128, maps='*fp32', METRIC='euclidean')]
        for case in cases:
            case = {'PARTS': 64, 'MAGNITUDE': case['METRIC'] == 'dot'} | case
            types = {'key': case['maps'], 'table': '*fp32', 'sums': '*fp32', 'scores': '*fp32'}
            found.append(launch.variant(kernel, case, types))
    return found
