"""What torch.compile must not look into: Inductor fails on channels-last views of symbolic size (pytorch#188422)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsec import compat
from mmsec.ops.kernels import conditions
from mmsec.ops.kernels.dispatch import Kernel


@compat.custom_op('mmsec::conv2d_nhwc')
def _conv2d_nhwc(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, 1, groups).permute(0, 2, 3, 1).contiguous()


@_conv2d_nhwc.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    # One rounded division, not a division plus 1: products of these stay products, which Inductor can divide.
    height, width = ((size + 2 * padding - weight.shape[-1] + stride) // stride for size in x.shape[1:3])
    return x.new_empty(x.shape[0], height, width, weight.shape[0])


@compat.flop_formula('conv2d_nhwc')
def _flops(x_shape: Sequence[int], weight_shape: Sequence[int], *_: object, out_shape: Sequence[int]) -> int:
    """Floating point operations of the forward pass, two for each multiply-add."""
    return 2 * math.prod(out_shape) * math.prod(weight_shape[1:])


@compat.custom_op('mmsec::conv2d_nhwc_backward')
def _conv2d_nhwc_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    grads = torch.ops.aten.convolution_backward(
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
        [True, True, True],
    )
    return grads[0].permute(0, 2, 3, 1).contiguous(), grads[1].contiguous(), grads[2].contiguous()


@_conv2d_nhwc_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x).contiguous(), torch.empty_like(weight), weight.new_empty(weight.shape[0])


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, _, *ctx.settings = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_conv2d_nhwc_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


_conv2d_nhwc.register_autograd(_backward, setup_context=_save)


def _compiling() -> str | None:
    return None if compat.is_compiling() else 'not under torch.compile'


def _conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """(B, H, W, C) -> (B, H', W', C')."""
    weight, bias = conv.weight, conv.bias
    assert bias is not None  # asked before
    if dtype := compat.autocast_dtype(x.device.type):  # which does not look into the operator either
        x, weight, bias = (t.to(dtype) for t in (x, weight, bias))
    return _conv2d_nhwc(x, weight, bias, conv.stride[0], conv.padding[0], conv.groups)


def _against_call(block: nn.Module, *inputs: Any) -> str | None:
    if why := _compiling():
        return why
    if isinstance(block, nn.Sequential) and (why := conditions.why_call(block, nn.Sequential)):
        return why
    layers = block if isinstance(block, nn.Sequential) else [block]
    return None if any(type(layer) is nn.Conv2d for layer in layers) else 'there is no convolution in it'


def _call(block: nn.Module, x: Tensor) -> Tensor:
    for layer in block if isinstance(block, nn.Sequential) else [block]:
        if isinstance(layer, nn.Conv2d) and conditions.why_conv(layer, depthwise=False) is None:
            x = _conv(x.permute(0, 2, 3, 1), layer).permute(0, 3, 1, 2)
        else:
            x = layer(x)
    return x


CALL = Kernel('opaque convolutions', _against_call, _call, in_graphs=True)
CONVOLUTION = Kernel(
    'opaque convolution',
    lambda x, conv, residual: _compiling() or conditions.why_conv(conv),
    lambda x, conv, residual: residual + _conv(x, conv),
    in_graphs=True,
)
