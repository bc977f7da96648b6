"""Convolution of maps whose channels come last."""

import torch
import torch.nn.functional as F
from torch import Tensor


def conv2d_nhwc(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    """Two-dimensional convolution, NHWC in and out.

    Args:
        x (Tensor): (B, H, W, C).
        weight (Tensor): (C', C / groups, K, K).
        bias (Tensor): (C',).
        stride (int): Step of the kernel.
        padding (int): Zeros around the map.
        groups (int): Groups of channels; C for a depthwise convolution.

    Returns:
        Tensor: (B, H', W', C').
    """
    if not torch.compiler.is_compiling():
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, 1, groups).permute(0, 2, 3, 1)
    # Inductor's own lowering fails on channels-last maps of symbolic size (pytorch/pytorch#188422, torch 2.13), so the
    # compiler gets an operator it does not look into, and no autocast either.
    if torch.is_autocast_enabled(x.device.type):
        x, weight, bias = (t.to(torch.get_autocast_dtype(x.device.type)) for t in (x, weight, bias))
    return _conv2d_nhwc(x, weight, bias, stride, padding, groups)


@torch.library.custom_op('mmsec::conv2d_nhwc', mutates_args=())
def _conv2d_nhwc(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, 1, groups)
    return out.permute(0, 2, 3, 1).contiguous()


@_conv2d_nhwc.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    # One rounded division, not a division plus 1: products of these stay products, which Inductor can divide.
    height, width = ((size + 2 * padding - weight.shape[-1] + stride) // stride for size in x.shape[1:3])
    return x.new_empty(x.shape[0], height, width, weight.shape[0])


@torch.library.custom_op('mmsec::conv2d_nhwc_backward', mutates_args=())
def _conv2d_nhwc_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
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
        [True] * 3,
    )
    return grad_x.permute(0, 2, 3, 1).contiguous(), grad_weight.contiguous(), grad_bias


@_conv2d_nhwc_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x).contiguous(), torch.empty_like(weight), weight.new_empty(weight.shape[0])


def _save(ctx, inputs, output) -> None:
    x, weight, _, *ctx.settings = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad: Tensor):
    return *_conv2d_nhwc_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


_conv2d_nhwc.register_autograd(_backward, setup_context=_save)
