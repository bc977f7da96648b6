"""Depthwise convolution of maps whose channels are adjacent, with GELU before it and a residual after it.

Forward and backward in Triton, float32 inside. The image size is a run-time number: no size compiles anew.
"""

import itertools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsec.ops.kernels.gpu import launch

# A program has T strips of BW columns, R rows and BC channels, and walks down the rows.
TILES: dict[str, list[launch.Tile]] = {
    'depthwise': [
        dict(T=4, BW=4, BC=64, R=8, warps=4),
        dict(T=4, BW=4, BC=64, R=16, warps=4),
        dict(T=8, BW=4, BC=32, R=8, warps=4),
        dict(T=8, BW=4, BC=64, R=8, warps=4),
    ],
    'depthwise_weight_gradient': [
        dict(T=8, BW=4, BC=32, R=8, warps=4),
        dict(T=8, BW=4, BC=32, R=16, warps=4),
        dict(T=8, BW=2, BC=64, R=8, warps=4),
    ],
}
_PROGRAMS = 512  # of a weight gradient for a tile of channels, about, so that there are few partial sums
_SUMMED = (64, 32)  # partial sums x channels that are reduced at a time
_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def _gelu_slope(x):
    return 0.5 * (1.0 + tl.math.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def _strips(height, width, strips, rows, T: tl.constexpr, BW: tl.constexpr):
    """Image, first row and first column of this program's strips, (T,) each; where there is none, below the image."""
    strip = tl.program_id(0) * T + tl.arange(0, T)
    across, down = tl.cdiv(width, BW), tl.cdiv(height, rows)
    column = strip % across * BW
    first = strip // across % down * rows
    return (strip // (across * down)).to(tl.int64), tl.where(strip < strips, first, height + 8), column


@triton.jit
def _row(
    x, token, row, column, height, width, stride, channel,
    C: tl.constexpr, GELU: tl.constexpr, P: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """One row of each strip and P columns on both sides of it: BW + 2P maps (T, BC), 0 outside the image."""
    inside = (row >= 0) & (row < height)
    source = x + token[:, None] * stride + channel
    values = ()
    for j in tl.static_range(-P, BW + P):
        mask = (inside & (column + j >= 0) & (column + j < width))[:, None] & (channel < C)
        value = tl.load(source + j * stride, mask=mask, other=0.0).to(tl.float32)
        values = values + (_gelu(value) if GELU else value,)
    return values


@triton.jit(do_not_specialize=['height', 'width', 'strips', 'rows'])
def _convolve(
    x, weight, bias, plus, pre, out, height, width, strips, rows, x_stride, plus_stride, pre_stride, out_stride,
    C: tl.constexpr, K: tl.constexpr, GELU: tl.constexpr, TURNED: tl.constexpr, SELF: tl.constexpr,
    T: tl.constexpr, BW: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Convolve T strips; each row is read once, and added to the K rows of sums that it is a part of.

    SELF: what is convolved is added, as 1 in the middle of the kernel. TURNED: the kernel is turned by 180 degrees.
    """
    P: tl.constexpr = K // 2
    channel = (tl.program_id(1) * BC + tl.arange(0, BC))[None, :]
    image, first, column = _strips(height, width, strips, rows, T, BW)
    taps = ()
    for i in tl.static_range(K * K):
        tap = tl.load(weight + channel * (K * K) + (K * K - 1 - i if TURNED else i), mask=channel < C, other=0.0)
        tap = tap.to(tl.float32)  # (1, BC)
        taps = taps + (tap + 1.0 if SELF and i == K * K // 2 else tap,)
    start = tl.zeros([T, BC], tl.float32)
    if bias is not None:
        start += tl.load(bias + channel, mask=channel < C, other=0.0).to(tl.float32)
    sums = (start,) * (K * BW)  # of K rows, BW columns each; first the row that is done next
    for i in range(rows + K - 1):
        row = first + i - P  # (T,), what is read
        token = (image * height + row) * width + column
        values = _row(x, token, row, column, height, width, x_stride, channel, C, GELU, P, BW)
        added = ()
        for k in tl.static_range(K):
            for j in tl.static_range(BW):
                total = sums[k * BW + j]
                for kw in tl.static_range(K):
                    total += values[j + kw] * taps[(K - 1 - k) * K + kw]
                added = added + (total,)
        done = (i >= K - 1) & (row - P >= 0) & (row - P < height)  # the row that is written, P above
        token = (token - P * width)[:, None]
        for j in tl.static_range(BW):
            mask = (done & (column + j < width))[:, None] & (channel < C)
            total = added[j]
            if plus is not None:
                total += tl.load(plus + (token + j) * plus_stride + channel, mask=mask, other=0.0).to(tl.float32)
            if pre is not None:
                z = tl.load(pre + (token + j) * pre_stride + channel, mask=mask, other=0.0).to(tl.float32)
                total *= _gelu_slope(z)
            tl.store(out + (token + j) * out_stride + channel, total.to(out.dtype.element_ty), mask=mask)
        sums = added[BW:] + (start,) * BW


@triton.jit(do_not_specialize=['height', 'width', 'strips', 'rows'])
def _weight_gradient(
    x, grad, part, height, width, strips, rows, x_stride, grad_stride,
    C: tl.constexpr, K: tl.constexpr, GELU: tl.constexpr, T: tl.constexpr, BW: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias from T strips of x, to part (programs, K*K + 1, C).

    x is read once, and stays for the K rows of grad that it is multiplied by.
    """
    P: tl.constexpr = K // 2
    channel = (tl.program_id(1) * BC + tl.arange(0, BC))[None, :]
    image, first, column = _strips(height, width, strips, rows, T, BW)
    zero = tl.zeros([T, BC], tl.float32)
    taps = (zero,) * (K * K)
    window = (zero,) * (K * BW)  # K rows of x, BW columns each
    bias = zero
    for i in range(rows + K - 1):
        row = first + i  # (T,), of x; of grad it is P above
        token = (image * height + row) * width + column
        own = tl.where(i < rows, row, -1)
        window = window[BW:] + _row(x, token, own, column, height, width, x_stride, channel, C, GELU, 0, BW)
        token -= P * width
        grads = _row(grad, token, row - P, column, height, width, grad_stride, channel, C, False, P, BW)
        added = ()
        for k in tl.static_range(K * K):
            total = taps[k]
            for j in tl.static_range(BW):
                total += window[k // K * BW + j] * grads[j + 2 * P - k % K]
            added = added + (total,)
        taps = added
        if (i >= P) & (i < rows + P):  # each row of grad in one strip
            for j in tl.static_range(BW):
                bias += grads[P + j]
    target = part + tl.program_id(0) * ((K * K + 1) * C) + channel
    for k in tl.static_range(K * K):
        tl.store(target + k * C, tl.sum(taps[k], 0, keep_dims=True), mask=channel < C)
    tl.store(target + K * K * C, tl.sum(bias, 0, keep_dims=True), mask=channel < C)


@triton.jit(do_not_specialize=['count'])
def _reduce(
    part, grad_weight, grad_bias, count, C: tl.constexpr, TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr
):
    """Add up partial sums (count, TAPS + 1, C) of one tap, or of the bias, in a fixed order."""
    tap = tl.program_id(0)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros([BP, BC], tl.float32)
    for start in range(0, count, BP):
        each = start + tl.arange(0, BP)[:, None]
        mask = (each < count) & (channel < C)[None, :]
        total += tl.load(part + (each * (TAPS + 1) + tap) * C + channel[None, :], mask=mask, other=0.0)
    total = tl.sum(total, 0)
    if tap < TAPS:
        tl.store(grad_weight + channel * TAPS + tap, total.to(grad_weight.dtype.element_ty), mask=channel < C)
    elif grad_bias is not None:
        tl.store(grad_bias + channel, total.to(grad_bias.dtype.element_ty), mask=channel < C)


def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None, pre: Tensor | None, out: Tensor, *flags: bool
) -> Tensor:
    """Launch :func:`_convolve`; flags are GELU, TURNED and SELF."""
    (batch, height, width, channels), size = x.shape, weight.shape[-1]
    tile = launch.tile('depthwise', f'C{channels} K{size}', TILES['depthwise'])
    strips = batch * triton.cdiv(height, tile['R']) * triton.cdiv(width, tile['BW'])
    launch.launch(
        _convolve,
        (triton.cdiv(strips, tile['T']), triton.cdiv(channels, tile['BC'])),
        *(x, weight, bias, plus, pre, out, height, width, strips, tile['R']),
        *(0 if t is None else t.stride(2) for t in (x, plus, pre, out)),
        *(channels, size, *flags, tile['T'], tile['BW'], tile['BC']),
        warps=tile['warps'],
    )
    return out


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gelu: bool) -> Tensor:
    """Residual depthwise convolution: ``t = GELU(x)`` or ``x``; residual, or else ``t``, + convolution of ``t`` + bias.

    Args:
        x (Tensor): (B, H, W, C), as :func:`serves` wants it.
        weight (Tensor): (C, 1, K, K), contiguous.
        bias (Tensor, optional): (C,).
        residual (Tensor, optional): (B, H, W, C).
        gelu (bool): Whether GELU, the exact one, comes first.

    Returns:
        Tensor: (B, H, W, C) of x's type, contiguous.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return _convolved(x, weight, bias, residual, None, out, gelu, False, residual is None)


def input_gradient(
    grad: Tensor, weight: Tensor, plus: Tensor | None, pre: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Gradient of what is convolved: ``(plus + correlation of grad) * GELU'(pre)``.

    Args:
        grad (Tensor): (B, H, W, C), as :func:`serves` wants it.
        weight (Tensor): (C, 1, K, K), contiguous.
        plus (Tensor, optional): (B, H, W, C), added; ``grad`` itself where the residual is what was convolved.
        pre (Tensor, optional): (B, H, W, C), what GELU was given; None if there was none.
        out (Tensor, optional): (B, H, W, C), where to write. May be ``plus``, and not ``grad``. Default: a new map.

    Returns:
        Tensor: (B, H, W, C), ``out``.
    """
    out = torch.empty(grad.shape, dtype=grad.dtype, device=grad.device) if out is None else out
    return _convolved(grad, weight, None, None if plus is grad else plus, pre, out, False, True, plus is grad)


def weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of weight (C, 1, K, K) and bias (C,), of their types, in two launches.

    ``grad`` (B, H, W, C) is as :func:`serves` wants it; other arguments are what :func:`forward` was given.
    """
    (batch, height, width, channels), size = x.shape, weight.shape[-1]
    tile = launch.tile('depthwise_weight_gradient', f'C{channels} K{size}', TILES['depthwise_weight_gradient'])
    across = triton.cdiv(width, tile['BW'])
    rows = max(tile['R'], triton.cdiv(batch * height * across, tile['T'] * _PROGRAMS))
    strips = batch * triton.cdiv(height, rows) * across
    count = triton.cdiv(strips, tile['T'])
    part = torch.empty(count, size * size + 1, channels, dtype=torch.float32, device=x.device)
    launch.launch(
        _weight_gradient,
        (count, triton.cdiv(channels, tile['BC'])),
        *(x, grad, part, height, width, strips, rows, x.stride(2), grad.stride(2)),
        *(channels, size, gelu, tile['T'], tile['BW'], tile['BC']),
        warps=tile['warps'],
    )
    grad_weight = torch.empty(weight.shape, dtype=weight.dtype, device=x.device)
    grad_bias = None if bias is None else torch.empty(channels, dtype=bias.dtype, device=x.device)
    grid = (size * size + (bias is not None), triton.cdiv(channels, _SUMMED[1]))
    launch.launch(_reduce, grid, part, grad_weight, grad_bias, count, channels, size * size, *_SUMMED)
    return grad_weight, grad_bias


class Depthwise(torch.autograd.Function):
    """:func:`forward` with gradients. Keeps x and the weight; GELU is computed again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gelu: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.itself, ctx.gelu = residual is None, gelu
        return forward(x, weight, bias, residual, gelu)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        launch.refuse_second_derivatives()
        x, weight, bias = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grad = dense(grad)
        grad_x = grad_weight = grad_bias = None
        if needs[0]:
            grad_x = input_gradient(grad, weight, grad if ctx.itself else None, x if ctx.gelu else None)
        if needs[1] or needs[2]:
            grad_weight, grad_bias = weight_gradient(grad, x, weight, bias, ctx.gelu)
        return grad_x, grad_weight, grad_bias, grad if needs[3] else None, None


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gelu: bool) -> Tensor:
    """:func:`forward`, with gradients where they are wanted; arguments as there."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias, residual)):
        return Depthwise.apply(x, weight, bias, residual, gelu)
    return forward(x, weight, bias, residual, gelu)


def dense(grad: Tensor) -> Tensor:
    """A gradient as kernels read it: a sum's is one number expanded, and strides of sides of 1 may be anything."""
    return grad.contiguous().view(-1).view(grad.shape) if _why_not_dense(grad) else grad


def _why_not_dense(x: Tensor) -> str | None:
    """Why the rows and images of a map are not where a token stride alone finds them, or None."""
    image, row, token, channel = x.stride()
    dense = channel == 1 and row == x.shape[2] * token and image == x.shape[1] * row
    return None if dense else f'not for strides {x.stride()}: channels must be adjacent, and tokens one stride apart'


def serves(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> str | None:
    """Why the kernels cannot take such tensors, or None."""
    if x.dim() != 4 or weight.shape not in ((x.shape[-1], 1, 3, 3), (x.shape[-1], 1, 5, 5)):
        return f'not for a kernel {tuple(weight.shape)} over a map {tuple(x.shape)}'
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        return f'not for a residual {tuple(residual.shape)} of {residual.dtype}'
    types = [each.dtype for each in (x, weight, bias) if each is not None]
    if not weight.is_contiguous() or not set(types) <= set(_TYPES):
        return f'not for {types} and a weight of strides {weight.stride()}'
    return _why_not_dense(x) or (_why_not_dense(residual) if residual is not None else None)


def variants() -> list[launch.Variant]:
    """What a check compiles: all tiles in bfloat16, the first in float32, of the convolutions of a block."""
    blocks = ((64, 3, False, True), (768, 3, True, True), (256, 5, False, False))  # C, K, GELU, SELF
    sums = dict.fromkeys(('weight', 'bias', 'part', 'grad_weight', 'grad_bias'), '*fp32')
    cases: list[tuple] = [(_reduce, sums, dict(C=256, TAPS=25, BP=_SUMMED[0], BC=_SUMMED[1], warps=4))]
    for maps, (channels, size, gelu, itself) in itertools.product(('*bf16', '*fp32'), blocks):
        types = sums | dict.fromkeys(('x', 'plus', 'pre', 'out', 'grad'), maps)
        block = dict(C=channels, K=size, GELU=gelu, SELF=itself)
        tiles = {name: each[: 1 if maps == '*fp32' else None] for name, each in TILES.items()}
        cases += [(_weight_gradient, types, block | tile) for tile in tiles['depthwise_weight_gradient']]
        if itself:
            block['plus'] = None
        ahead = block | dict(TURNED=False, pre=None)
        back = block | dict(TURNED=True, GELU=False, bias=None) | ({} if gelu else {'pre': None})
        cases += [(_convolve, types, each | tile) for each in (ahead, back) for tile in tiles['depthwise']]
    return [launch.variant(kernel, constants, types) for kernel, types, constants in cases]
