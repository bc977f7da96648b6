"""Stable sort of short lists in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsec.ops.kernels.gpu import launch

LONGEST = 8192
_SIZES = (512, 1024, 2048, 4096, LONGEST)  # places of a program; each is compiled once
TILES: dict[str, list[launch.Tile]] = {}  # nothing to choose: a thread has 8 keys


def argsort(scores: Tensor) -> Tensor:
    """Places of the elements of each list in ascending order, as ``scores.argsort(dim=-1, stable=True)`` gives them.

    Args:
        scores (Tensor): (..., N) float32, contiguous, 1 <= N <= 8192. -0.0 equals 0.0; NaN comes last.

    Returns:
        Tensor: (..., N) int64.
    """
    length = scores.shape[-1]
    size = next(size for size in _SIZES if size >= length)
    order = torch.empty_like(scores, dtype=torch.int64)
    launch.launch(_sort, (scores.numel() // length,), scores, order, length, size, warps=_warps(size))
    return order


def serves(scores: Tensor) -> str | None:
    """Why :func:`argsort` does not take these scores, or None."""
    if scores.dtype != torch.float32:
        return f'scores are {scores.dtype}, not float32'
    if not scores.is_contiguous():
        return 'scores are not contiguous'
    if not 0 < scores.shape[-1] <= LONGEST:
        return f'lists of {scores.shape[-1]}, not of 1 to {LONGEST}'
    return None


def variants() -> list[launch.Variant]:
    """What is compiled."""
    types = {'scores': '*fp32', 'order': '*i64', 'N': 'i32'}
    return [launch.Variant(_sort, types, {'SIZE': size}, _warps(size)) for size in _SIZES]


def _warps(size: int) -> int:
    """Warps of a program."""
    return size // 256


@triton.jit(do_not_specialize=['N'])
def _sort(scores, order, N, SIZE: tl.constexpr):
    """A program sorts a list by 64-bit keys: the score's bits, in ascending order as integers, above the place."""
    first = tl.program_id(0).to(tl.int64) * N
    place = tl.arange(0, SIZE)
    x = tl.load(scores + first + place, mask=place < N, other=0.0)
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    bits = tl.where(x != x, 0x7FFFFFFF, bits)
    keys = (bits.to(tl.int64) << 32) | place
    keys = tl.sort(tl.where(place < N, keys, 0x7FFFFFFFFFFFFFFF))
    tl.store(order + first + place, keys & 0xFFFFFFFF, mask=place < N)
