"""Convolutions as operators that neither the compiler nor autograd looks into."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmsec.ops.kernels.front import Kernel


def _against(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, plus: Tensor | None = None
) -> str | None:
    # Inductor's own lowering fails on channels-last maps of symbolic size (pytorch/pytorch#188422, torch 2.13).
    if torch.compiler.is_compiling():
        return None
    if not _is_wide(x, weight, groups):
        return 'not under torch.compile, and no depthwise convolution of 5x5 on a CPU'
    return None if weight.requires_grad and torch.is_grad_enabled() else 'no gradient of the weight is wanted'


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, plus: Tensor | None = None
) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):  # which does not look into the operator either
        x, weight, bias = (t.to(torch.get_autocast_dtype(x.device.type)) for t in (x, weight, bias))
    out = _conv2d_nhwc(x, weight, bias, stride, padding, groups)
    return out if plus is None else out + plus


CONVOLUTION = Kernel('opaque operator', _against, _convolution)


def _is_wide(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether oneDNN is slow at the weight gradient: see :func:`_wide_weight_gradient`."""
    return x.device.type == 'cpu' and groups == x.shape[-1] and weight.shape[-1] == 5


@torch.library.custom_op('mmsec::conv2d_nhwc', mutates_args=())
def _conv2d_nhwc(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, 1, groups)
    return out.permute(0, 2, 3, 1).contiguous()


@_conv2d_nhwc.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    # One rounded division, not a division plus 1: products of these stay products, which Inductor can divide.
    height, width = ((size + 2 * padding - weight.shape[-1] + stride) // stride for size in x.shape[1:3])
    return x.new_empty(x.shape[0], height, width, weight.shape[0])


@register_flop_formula(torch.ops.mmsec.conv2d_nhwc)
def _flops(x_shape: Sequence[int], weight_shape: Sequence[int], *_: object, out_shape: Sequence[int]) -> int:
    """Floating point operations of the forward pass, two for each multiply-add."""
    return 2 * math.prod(out_shape) * math.prod(weight_shape[1:])


@torch.library.custom_op('mmsec::conv2d_nhwc_backward', mutates_args=())
def _conv2d_nhwc_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_weight, grad_bias = convolution_backward(grad, x, weight, stride, padding, groups)
    assert grad_x is not None  # all are wanted
    assert grad_weight is not None
    assert grad_bias is not None
    return grad_x.contiguous(), grad_weight.contiguous(), grad_bias


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    groups: int,
    wanted: Sequence[bool] = (True, True, True),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a convolution of maps whose channels come last.

    Args:
        grad (Tensor): (B, H', W', C'), of the result.
        x (Tensor): (B, H, W, C).
        weight (Tensor): (C', C / groups, K, K).
        stride (int): Step of the kernel.
        padding (int): Zeros around the map.
        groups (int): Groups of channels.
        wanted (Sequence[bool]): Whether the gradient of map, weight and bias is wanted. Default: all.

    Returns:
        tuple[Tensor | None, ...]: Of map, weight and bias (C',); None where it is not wanted.
    """
    of_map, of_weight, of_bias = wanted
    wide = of_weight and _is_wide(x, weight, groups)
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2),
        x.permute(0, 3, 1, 2),
        weight,
        [weight.shape[0]],
        [stride] * 2,
        [padding] * 2,
        [1, 1],
        False,
        [0, 0],
        groups,
        [of_map, of_weight and not wide, of_bias and not wide],
    )
    if wide:
        grad_weight = _wide_weight_gradient(grad, x, weight, stride, padding)
        grad_bias = grad.sum((0, 1, 2)) if of_bias else None
    return grad_x.permute(0, 2, 3, 1) if of_map else None, grad_weight, grad_bias


def _wide_weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Weight gradient of a 5x5 depthwise convolution in four overlapping 3x3 parts.

    oneDNN's kernel for a 3x3 one is 60 to 100 times as fast as for a 5x5 one (docs/performance.md).
    """
    channels, (height, width) = x.shape[-1], grad.shape[1:3]
    padded = F.pad(x, (0, 0, padding, padding, padding, padding)).permute(0, 3, 1, 2)
    result = torch.empty_like(weight)
    for i in (0, 2):
        for j in (0, 2):
            part = padded[:, :, i : i + (height - 1) * stride + 3, j : j + (width - 1) * stride + 3]
            result[:, :, i : i + 3, j : j + 3] = torch.ops.aten.convolution_backward(
                grad.permute(0, 3, 1, 2),
                part.contiguous(memory_format=torch.channels_last),
                weight[:, :, :3, :3],
                None,
                [stride] * 2,
                [0, 0],
                [1, 1],
                False,
                [0, 0],
                channels,
                [False, True, False],
            )[1]
    return result


@_conv2d_nhwc_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x).contiguous(), torch.empty_like(weight), weight.new_empty(weight.shape[0])


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, _, *ctx.settings = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_conv2d_nhwc_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


_conv2d_nhwc.register_autograd(_backward, setup_context=_save)
