"""The end of a residual branch and the LayerNorm after it: layer scale, drop path, sum and norm in one kernel.

Forward and backward in Triton, float32 inside. The number of tokens is a run-time number: no size compiles anew.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsec.ops.kernels.gpu import launch

# A tile has SIZE elements, of whole tokens.
TILES: dict[str, list[launch.Tile]] = {
    'norm_forward': [dict(SIZE=1024, warps=4), dict(SIZE=2048, warps=4), dict(SIZE=2048, warps=8)],
    'norm_backward': [dict(SIZE=1024, warps=4), dict(SIZE=2048, warps=8)],
}
_PROGRAMS = 512  # of a backward, about, and a program has at least so many tiles, so that there are few partial sums:
_RUNS = 8
_SUMMED = (64, 32)  # partial sums x channels that are reduced at a time
_WIDEST = 1024
_TYPES = (torch.float32, torch.float16, torch.bfloat16)
Maybe = Tensor | None


@triton.jit
def _factor(drawn, token, tokens, per_image, keep):
    """What drop path multiplies each token by, (BT, 1); keep + drawn is rounded to drawn's type, as in plain torch."""
    number = tl.load(drawn + token // per_image, mask=token < tokens, other=0.0)
    number = (number.to(tl.float32) + keep).to(drawn.dtype.element_ty).to(tl.float32)
    return (tl.floor(number) / keep)[:, None]


@triton.jit
def _read(x, at, mask):
    return tl.load(x + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=['drawn', 'tokens', 'per_image'])
def _forward(
    x, branch, scale, drawn, weight, bias, total, normed, mean, rstd, tokens, per_image, keep, eps,
    C: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Sum and norm of BT tokens; total is None where there is no branch, normed where the sum alone is wanted."""
    token = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    channel = tl.arange(0, BC)[None, :]
    inside = channel < C
    mask = (token < tokens)[:, None] & inside
    at = token[:, None] * C + channel
    spread = tl.broadcast_to(channel, [BT, BC])  # read so, scale and weight lie in the registers as the maps do
    value = _read(x, at, mask)  # (BT, BC)
    if branch is not None:
        added = _read(branch, at, mask)
        if scale is not None:
            added *= _read(scale, spread, mask)
        if drawn is not None:
            added *= _factor(drawn, token, tokens, per_image, keep)
        rounded = (value + added).to(total.dtype.element_ty)
        tl.store(total + at, rounded, mask=mask)
        value = rounded.to(tl.float32)
    if normed is not None:
        average = tl.sum(value, 1) / C  # (BT,)
        value = tl.where(mask, value - average[:, None], 0.0)
        scaled = tl.rsqrt(tl.sum(value * value, 1) / C + eps)
        value *= scaled[:, None] * _read(weight, spread, mask)
        if bias is not None:
            value += _read(bias, spread, mask)
        tl.store(normed + at, value.to(normed.dtype.element_ty), mask=mask)
        tl.store(mean + token, average, mask=token < tokens)
        tl.store(rstd + token, scaled, mask=token < tokens)


@triton.jit(do_not_specialize=['drawn', 'tokens', 'per_image', 'runs'])
def _backward(
    grad_total, grad_normed, total, mean, rstd, branch, scale, drawn, weight, grad_x, grad_branch, part,
    tokens, per_image, runs, keep, C: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradients of the maps in runs of BT tokens, and their part of those of weight, bias, scale: part (P, 3, C)."""
    channel = tl.arange(0, BC)[None, :]
    inside = channel < C
    for_weight = tl.zeros([BT, BC], tl.float32)
    for_bias = for_weight
    for_scale = for_weight
    spread = tl.broadcast_to(channel, [BT, BC])  # as in _forward
    for i in range(runs):
        token = (tl.program_id(0) * runs + i).to(tl.int64) * BT + tl.arange(0, BT)
        mask = (token < tokens)[:, None] & inside
        at = token[:, None] * C + channel
        grad = tl.zeros([BT, BC], tl.float32)
        if grad_total is not None:
            grad = _read(grad_total, at, mask)
        if grad_normed is not None:
            average = _read(mean, token, token < tokens)[:, None]
            scaled = _read(rstd, token, token < tokens)[:, None]
            unit = tl.where(mask, (_read(total, at, mask) - average) * scaled, 0.0)
            each = _read(grad_normed, at, mask)
            if part is not None:
                for_weight += each * unit
                for_bias += each
            each *= _read(weight, spread, mask)
            along = tl.sum(each * unit, 1)[:, None] / C
            grad += (each - tl.sum(each, 1)[:, None] / C - unit * along) * scaled
            if grad_x is not None:
                tl.store(grad_x + at, grad.to(grad_x.dtype.element_ty), mask=mask)
        if drawn is not None:
            grad *= _factor(drawn, token, tokens, per_image, keep)
        if branch is not None:
            for_scale += grad * _read(branch, at, mask)
        if grad_branch is not None:
            if scale is not None:
                grad *= _read(scale, spread, mask)
            tl.store(grad_branch + at, grad.to(grad_branch.dtype.element_ty), mask=mask)
    if part is not None:
        target = part + tl.program_id(0) * (3 * C) + channel
        if grad_normed is not None:
            tl.store(target, tl.sum(for_weight, 0, keep_dims=True), mask=inside)
            tl.store(target + C, tl.sum(for_bias, 0, keep_dims=True), mask=inside)
        if branch is not None:
            tl.store(target + 2 * C, tl.sum(for_scale, 0, keep_dims=True), mask=inside)


@triton.jit(do_not_specialize=['count'])
def _reduce(part, weight, bias, scale, count, C: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    """Add up partial sums (count, 3, C) of one gradient in a fixed order; gradients that are None are left out."""
    row = tl.program_id(0)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    sums = tl.zeros([BP, BC], tl.float32)
    for start in range(0, count, BP):
        each = start + tl.arange(0, BP)[:, None]
        sums += _read(part, (each * 3 + row) * C + channel[None, :], (each < count) & (channel < C)[None, :])
    result = tl.sum(sums, 0)
    for i in tl.static_range(3):
        target = (weight, bias, scale)[i]
        if target is not None:
            tl.store(target + channel, result.to(target.dtype.element_ty), mask=(channel < C) & (row == i))


def _layout(kernel: str, channels: int) -> tuple[int, int, int]:
    """Tokens and channels of a tile, and warps."""
    tile, width = launch.tile(kernel, f'C{channels}', TILES[kernel]), triton.next_power_of_2(channels)
    return max(1, tile['SIZE'] // width), width, tile['warps']


def forward(
    x: Tensor,
    branch: Maybe,
    scale: Maybe,
    drawn: Maybe,
    keep: float,
    weight: Maybe,
    bias: Maybe,
    eps: float,
    into: torch.dtype | None = None,
) -> tuple[Tensor, Maybe, Maybe, Maybe]:
    """The sum of a map and a branch, and its LayerNorm, in one launch.

    Args:
        x (Tensor): (B, ..., C), as :func:`serves` wants all tensors.
        branch (Tensor, optional): (B, ..., C); None where ``x`` is the sum already.
        scale (Tensor, optional): (C,), what the branch is multiplied by.
        drawn (Tensor, optional): B numbers from 0 to 1; a branch stays, divided by ``keep``, where keep + drawn >= 1.
        keep (float): Probability that the branch of an image stays.
        weight (Tensor, optional): (C,) of the LayerNorm; None if the sum alone is wanted.
        bias (Tensor, optional): (C,).
        eps (float): Of the LayerNorm.
        into (torch.dtype, optional): Type of the LayerNorm. Default: that of the sum.

    Returns:
        tuple: Sum and LayerNorm (B, ..., C), and mean and reciprocal deviation of the tokens in float32; without
        ``weight`` None but for the sum.
    """
    channels, tokens = x.shape[-1], x.numel() // x.shape[-1]
    height, width, warps = _layout('norm_forward', channels)
    total = x if branch is None else torch.empty(x.shape, dtype=_sum_type(x, branch, scale), device=x.device)
    normed = mean = rstd = None
    if weight is not None:
        normed = torch.empty_like(total, dtype=into)
        mean, rstd = (torch.empty(tokens, dtype=torch.float32, device=x.device) for _ in range(2))
    launch.launch(
        _forward,
        (triton.cdiv(tokens, height),),
        *(x, branch, scale, drawn, weight, bias, None if branch is None else total, normed, mean, rstd),
        *(tokens, tokens // max(1, len(x)), keep, eps, channels, height, width),
        warps=warps,
    )
    return total, normed, mean, rstd


def _sum_type(x: Tensor, branch: Tensor, scale: Maybe) -> torch.dtype:
    """The type that plain torch gives the sum: a layer scale in float32 makes it float32."""
    scaled = branch.dtype if scale is None else torch.promote_types(branch.dtype, scale.dtype)
    return torch.promote_types(x.dtype, scaled)


def backward(
    grad_total: Maybe, grad_normed: Maybe, kept: Sequence, keep: float, needs: Sequence[bool], types: Sequence
) -> list[Maybe]:
    """Gradients of x, branch, scale, weight and bias, in one launch and a second one for the last three.

    Args:
        grad_total (Tensor, optional): (B, ..., C) of the sum.
        grad_normed (Tensor, optional): (B, ..., C) of the LayerNorm; one of the two must be there.
        kept (Sequence): The sum, branch, scale, drawn, weight, bias, mean and deviation, as :func:`forward` was given
            them or gave them. The sum is for ``grad_normed`` alone, the branch for the gradient of ``scale`` alone.
        keep (float): As :func:`forward` was given.
        needs (Sequence[bool]): Which of the five.
        types (tuple[torch.dtype, torch.dtype]): Of x and of the branch.

    Returns:
        list[Maybe]: Those of ``needs``. That of x is that of the branch, too, where nothing multiplies the branch.
    """
    total, branch, scale, drawn, weight, bias, mean, rstd = kept
    grad_total, grad_normed = (g if g is None else g.contiguous() for g in (grad_total, grad_normed))
    new_x = new_branch = part = None
    like: Any = total if grad_total is None else grad_total
    # The gradients of x and of the branch are one tensor.
    same = scale is None and drawn is None and types == (like.dtype, like.dtype)
    if grad_normed is None:
        grad_x = None if grad_total is None else grad_total.to(types[0])
        weight = bias = None
    else:
        grad_x = new_x = torch.empty_like(like, dtype=types[0]) if needs[0] or (needs[1] and same) else None
    grad_branch = grad_x if needs[1] else None
    if needs[1] and not same:
        grad_branch = new_branch = torch.empty_like(like, dtype=types[1])
    channels, tokens = like.shape[-1], like.numel() // like.shape[-1]
    height, width, warps = _layout('norm_backward', channels)
    runs = max(_RUNS, triton.cdiv(tokens, height * _PROGRAMS))
    count = triton.cdiv(tokens, height * runs)
    learnt = zip((weight, bias, scale), (needs[3], needs[4], needs[2]), strict=True)
    small = [torch.empty_like(t) if t is not None and need else None for t, need in learnt]
    if any(t is not None for t in small):
        part = torch.empty(count, 3, channels, dtype=torch.float32, device=like.device)
    if any(t is not None for t in (part, new_x, new_branch)):
        launch.launch(
            _backward,
            (count,),
            *(grad_total, grad_normed, total, mean, rstd, branch if needs[2] else None, scale, drawn, weight),
            *(new_x, new_branch, part, tokens, tokens // max(1, len(like)), runs, keep, channels, height, width),
            warps=warps,
        )
    if part is not None:
        launch.launch(_reduce, (3, triton.cdiv(channels, _SUMMED[1])), part, *small, count, channels, *_SUMMED)
    return [grad_x if needs[0] else None, grad_branch, small[2], small[0], small[1]]


class ResidualNorm(torch.autograd.Function):
    """:func:`forward` with gradients, of its arguments. Keeps the sum for the norm, the branch for ``scale``."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Maybe]:
        x, branch, scale, drawn, keep, weight, bias, _, _ = args
        total, normed, mean, rstd = forward(*args)
        normed_from, scaled = total if weight is not None else None, branch if ctx.needs_input_grad[2] else None
        ctx.save_for_backward(normed_from, scaled, scale, drawn, weight, bias, mean, rstd)
        ctx.keep, ctx.types = keep, (x.dtype, x.dtype if branch is None else branch.dtype)
        ctx.set_materialize_grads(False)
        return total, normed

    @staticmethod
    def backward(ctx: Any, grad_total: Maybe, grad_normed: Maybe) -> tuple[Maybe, ...]:
        launch.refuse_second_derivatives()
        if grad_total is None and grad_normed is None:
            return (None,) * 9
        needs = [ctx.needs_input_grad[i] for i in (0, 1, 2, 5, 6)]
        grads = backward(grad_total, grad_normed, ctx.saved_tensors, ctx.keep, needs, ctx.types)
        return (*grads[:3], None, None, *grads[3:], None, None)


def residual_norm(
    x: Tensor,
    branch: Maybe,
    scale: Maybe,
    drawn: Maybe,
    keep: float,
    weight: Maybe,
    bias: Maybe,
    eps: float,
    into: torch.dtype | None = None,
) -> tuple[Tensor, Maybe]:
    """Sum and LayerNorm as :func:`forward` gives them, with gradients where they are wanted; arguments as there."""
    wanting = (t is not None and t.requires_grad for t in (x, branch, scale, weight, bias))
    if torch.is_grad_enabled() and any(wanting):
        return ResidualNorm.apply(x, branch, scale, drawn, keep, weight, bias, eps, into)
    return forward(x, branch, scale, drawn, keep, weight, bias, eps, into)[:2]


def residual(x: Tensor, branch: Tensor, scale: Maybe, drawn: Maybe, keep: float) -> Tensor:
    """The sum alone, with gradients where they are wanted; arguments as :func:`forward`."""
    return residual_norm(x, branch, scale, drawn, keep, None, None, 0.0)[0]


def serves(x: Tensor, branch: Maybe, scale: Maybe, drawn: Maybe, weight: Maybe, bias: Maybe) -> str | None:
    """Why the kernels cannot take such tensors, or None."""
    channels = x.shape[-1]
    if channels > _WIDEST:
        return f'not for {channels} channels, more than {_WIDEST}'
    if branch is not None and branch.shape != x.shape:
        return f'not for a branch {tuple(branch.shape)} of a map {tuple(x.shape)}'
    if drawn is not None and drawn.numel() != len(x):
        return f'not for {drawn.numel()} drawn numbers and {len(x)} images'
    if any(t is not None and t.shape != (channels,) for t in (scale, weight, bias)):
        return 'not for layers of another width'
    for each in (x, branch, scale, drawn, weight, bias):
        if each is not None and (each.dtype not in _TYPES or not each.is_contiguous()):
            return f'not for {each.dtype} and strides {each.stride()}'
    return None


def variants() -> list[launch.Variant]:
    """What a check compiles: all tiles in bfloat16, the first in float32; with all, without a branch, the sum alone."""
    types = dict.fromkeys(('scale', 'drawn', 'weight', 'bias', 'mean', 'rstd', 'part'), '*fp32')
    types |= dict.fromkeys(('tokens', 'per_image', 'runs', 'count'), 'i32') | dict(keep='fp32', eps='fp32')
    no_branch = ('branch', 'scale', 'drawn', 'grad_branch')
    no_norm = ('weight', 'bias', 'normed', 'grad_normed', 'mean', 'rstd', 'grad_x')
    sums = dict(C=640, BP=_SUMMED[0], BC=_SUMMED[1], warps=4)
    found = [launch.variant(_reduce, each, types) for each in (sums, sums | dict(weight=None, scale=None))]
    for maps, channels, absent in itertools.product(('*bf16', '*fp32'), (64, 640), ((), no_branch, no_norm)):
        width = triton.next_power_of_2(channels)
        for kernel, name in ((_forward, 'norm_forward'), (_backward, 'norm_backward')):
            for tile in TILES[name][: 1 if maps == '*fp32' else None]:
                sizes = dict(C=channels, BT=max(1, tile['SIZE'] // width), BC=width, warps=tile['warps'])
                found.append(launch.variant(kernel, dict.fromkeys(absent) | sizes, types, maps))
    return found
