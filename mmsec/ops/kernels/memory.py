"""The same arithmetic in less memory. Fresh memory is page faults on a CPU, and room for a larger batch on a GPU."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmsec.ops.kernels import opaque
from mmsec.ops.kernels.front import Kernel

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]

_COMPILED = 'not under torch.compile, which plans memory by itself'
_READ = 'others may read what would be overwritten, such as a forward hook'


def _wants_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _against_sum_in_place(x: Tensor, branch: Tensor, mine: bool = True) -> str | None:
    if torch.compiler.is_compiling():
        return _COMPILED
    if not mine:
        return _READ
    if _wants_gradient(branch):
        return 'a gradient is wanted, and autograd copies a view before it lets it be overwritten'
    return None if x.dtype == branch.dtype else f'the sum of {x.dtype} and {branch.dtype} is the wider of the two'


def _against_convolution_in_place(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, plus: Tensor | None = None
) -> str | None:
    if torch.compiler.is_compiling():
        return _COMPILED
    if plus is None:
        return 'nothing is added'
    device = x.device.type
    result = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return None if plus.dtype == result else f'the sum of {result} and {plus.dtype} is the wider of the two'


def _convolution_in_place(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, plus: Tensor
) -> Tensor:
    out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, 1, groups)
    # No backward needs what a convolution returns, so autograd lets it be overwritten.
    return out.add_(plus.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _against_recomputing(x: Tensor, weight: Tensor, bias: Tensor, mine: bool = True) -> str | None:
    if torch.compiler.is_compiling():
        return _COMPILED
    return None if _wants_gradient(x, weight, bias) else 'no gradient is wanted'


def _against_gelu_in_place(x: Tensor, weight: Tensor, bias: Tensor, mine: bool = True) -> str | None:
    if torch.compiler.is_compiling():
        return _COMPILED
    if not mine:
        return _READ
    return 'a gradient is wanted' if _wants_gradient(x, weight, bias) else None


class _GeluAndMix(torch.autograd.Function):
    """GELU and what follows it. The backward computes GELU again; kept, it would be a seventh of what a block keeps.

    It does what torch.utils.checkpoint does, without the hooks that each call of that puts on every tensor.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mix: Mix) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):  # which would keep what it casts here, without the way of the gradient
            weight, bias = (t.to(torch.get_autocast_dtype(device)) for t in (weight, bias))
        ctx.save_for_backward(x, weight)
        return mix(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        hidden, grad_mixed = F.gelu(x).to(weight.dtype), grad.to(weight.dtype)
        grad_hidden, grad_weight, grad_bias = opaque.convolution_backward(
            grad_mixed, hidden, weight, 1, weight.shape[-1] // 2, x.shape[-1], ctx.needs_input_grad[:3]
        )
        grad_x = None if grad_hidden is None else torch.ops.aten.gelu_backward(grad + grad_hidden, x)
        return grad_x, grad_weight, grad_bias, None


def gelu_before(mix: Mix) -> tuple[Kernel, Kernel]:
    """Kernels of GELU and a residual depthwise convolution after it, whose input is the widest map of a block.

    Args:
        mix (Callable): The convolution and the sum; it is given GELU's result and the two other arguments of the front.

    Returns:
        tuple[Kernel, Kernel]: For training and for inference.
    """

    def recomputed(x: Tensor, weight: Tensor, bias: Tensor, mine: bool = True) -> Tensor:
        return _GeluAndMix.apply(x, weight, bias, mix)

    def in_place(x: Tensor, weight: Tensor, bias: Tensor, mine: bool = True) -> Tensor:
        return mix(torch.ops.aten.gelu_(x), weight, bias)

    return (
        Kernel('recomputed in the backward', _against_recomputing, recomputed),
        Kernel('in place', _against_gelu_in_place, in_place),
    )


def _against_products_apart(x: Tensor, weight: Tensor, bias: Tensor, chunks: int) -> str | None:
    return f'one product is launched sooner on {x.device.type}' if x.device.type != 'cpu' else None


def chunks_apart(linear: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Kernel:
    """A product of its own for each part of a linear layer, so that each part is contiguous.

    Args:
        linear (Callable): The layer; it is given the map, and a part of weight and bias.

    Returns:
        Kernel: For the front that cuts the result of one product.
    """

    def run(x: Tensor, weight: Tensor, bias: Tensor, chunks: int) -> tuple[Tensor, ...]:
        return tuple(linear(x, *part) for part in zip(weight.chunk(chunks), bias.chunk(chunks), strict=True))

    return Kernel('products apart', _against_products_apart, run)


def _against_side_by_side(index: Tensor, inverse: Tensor, *tensors: Tensor) -> str | None:
    if torch.compiler.is_compiling():
        return _COMPILED
    if len(tensors) == 1:
        return 'there is one tensor'
    return 'putting them side by side takes longer on a CPU' if index.device.type == 'cpu' else None


def rows_side_by_side(take: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Kernel:
    """One permutation of several tensors' rows.

    Args:
        take (Callable): The permutation of one; it is given rows, permutation and inverse.

    Returns:
        Kernel: For the front that permutes one after the other.
    """

    def run(index: Tensor, inverse: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        # PyTorch's kernel on CUDA has 32 threads for each row, and a row of 32 half floats keeps 4 of them busy.
        return take(torch.cat(tensors, dim=-1), index, inverse).split(tensors[0].shape[-1], dim=-1)

    return Kernel('side by side', _against_side_by_side, run)


def _against_complex(x: Tensor, table: Tensor) -> str | None:
    if torch.compiler.is_compiling():
        return 'not under torch.compile, which fuses the formula and not complex numbers'
    return None if x.stride(-1) == 1 else 'the channels of a token do not lie side by side in memory'


def _rotation_as_complex(x: Tensor, table: Tensor) -> Tensor:
    # One pass over memory: multiplication by a complex number of length one.
    pairs = x.to(table.dtype).unflatten(-1, (-1, 2))  # (B, N, h, d/2, 2)
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(table)[:, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


ROTATION_AS_COMPLEX = Kernel('complex product', _against_complex, _rotation_as_complex)
SUM_IN_PLACE = Kernel('in place', _against_sum_in_place, lambda x, branch, mine=True: branch.add_(x))
CONVOLUTION_IN_PLACE = Kernel('sum in place', _against_convolution_in_place, _convolution_in_place)
