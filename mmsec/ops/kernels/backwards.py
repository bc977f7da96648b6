"""Plain torch with a backward of its own, where autograd's takes more time or memory."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsec import compat
from mmsec.ops.kernels import conditions
from mmsec.ops.kernels.dispatch import Kernel


class _TakeRows(torch.autograd.Function):
    """Permute rows; the backward is the permutation by the inverse: no scatter-add."""

    # With ctx and not setup_context, which torch calls through inspect.signature: 90 microseconds instead of 10.
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(index, inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, inverse = ctx.saved_tensors
        return _take(grad, inverse, index), None, None


def _take(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Rows (R, d) of one tensor."""
    return _TakeRows.apply(x, index, inverse) if conditions.wants_gradient(x) else x.index_select(0, index)


def _against_inverse(index: Tensor, inverse: Tensor, *tensors: Tensor) -> str | None:
    if not conditions.wants_gradient(*tensors):
        return 'no gradient is wanted'
    return None if compat.is_compiling() else conditions.why_plain()  # Dynamo knows the function


def _rows_by_inverse(index: Tensor, inverse: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(_take(x, index, inverse) for x in tensors)


def _against_side_by_side(index: Tensor, inverse: Tensor, *tensors: Tensor) -> str | None:
    if len(tensors) == 1:
        return 'there is one tensor'
    return None if index.is_cuda else f'not on {index.device.type}'


def _rows_side_by_side(index: Tensor, inverse: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    # PyTorch's kernel on CUDA has 32 threads for each row, and a row of 32 half floats keeps 4 of them busy.
    return _take(torch.cat(tensors, dim=-1), index, inverse).split(tensors[0].shape[-1], dim=-1)


ROWS_SIDE_BY_SIDE = Kernel('side by side', _against_side_by_side, _rows_side_by_side)
ROWS_BY_INVERSE = Kernel('gradient by the inverse', _against_inverse, _rows_by_inverse, in_graphs=True)


def _gelu_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``t + depthwise(t)`` of ``t = GELU(x)``."""
    hidden = F.gelu(x)
    mixed = F.conv2d(hidden.permute(0, 3, 1, 2), weight, bias, 1, weight.shape[-1] // 2, 1, x.shape[-1])
    return hidden + mixed.permute(0, 2, 3, 1)


class _GeluDepthwise(torch.autograd.Function):
    """GELU, depthwise convolution and residual. The backward computes GELU again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        device = x.device.type
        ctx.type = compat.autocast_dtype(device) or weight.dtype
        return _gelu_depthwise(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated, too
            wanted = [t for t, need in zip(inputs, ctx.needs_input_grad, strict=True) if need]
            with torch.autocast(grad.device.type, ctx.type, enabled=ctx.type != inputs[1].dtype):
                out = _gelu_depthwise(*inputs)
            found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
            return tuple(next(found) if need else None for need in ctx.needs_input_grad)
        x, weight, _ = inputs
        kept, weight = weight.dtype, weight.to(ctx.type)
        hidden, grad_mixed = F.gelu(x).to(ctx.type), grad.to(ctx.type)
        padding, channels = [weight.shape[-1] // 2] * 2, x.shape[-1]
        grad_hidden, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad_mixed.permute(0, 3, 1, 2),
            hidden.permute(0, 3, 1, 2),
            weight,
            [channels],
            [1, 1],
            padding,
            [1, 1],
            False,
            [0, 0],
            channels,
            ctx.needs_input_grad[:3],
        )
        grads = [None if each is None else each.to(kept) for each in (grad_weight, grad_bias)]
        if grad_hidden is None:
            return None, *grads
        return torch.ops.aten.gelu_backward(grad + grad_hidden.permute(0, 2, 3, 1), x), *grads


def _against_recomputing(x: Tensor, conv: nn.Conv2d) -> str | None:
    if why := conditions.why_conv(conv):
        return why
    return None if conditions.wants_gradient(x, conv.weight, conv.bias) else 'no gradient is wanted'


GELU_RECOMPUTED = Kernel(
    'recomputed in the backward',
    _against_recomputing,
    lambda x, conv: _GeluDepthwise.apply(x, conv.weight, conv.bias),
)


def _against_complex(x: Tensor, table: Tensor) -> str | None:
    if compat.is_compiling():
        return 'not under torch.compile, which fuses the formula and not complex numbers'
    pairs = x.stride(-1) == 1 and not any(stride % 2 for stride in (*x.stride()[:-1], x.storage_offset()))
    return None if pairs or x.dtype != table.dtype else 'pairs of channels do not lie side by side in memory'


def _rotation_as_complex(x: Tensor, table: Tensor) -> Tensor:
    # One pass over memory: multiplication by a complex number of length one.
    wide = x if x.dtype == table.dtype else x.to(table.dtype, memory_format=torch.contiguous_format)
    pairs = wide.unflatten(-1, (-1, 2))  # (B, N, h, d/2, 2)
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(table).unsqueeze(-2)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


ROTATION_AS_COMPLEX = Kernel('complex product', _against_complex, _rotation_as_complex, in_graphs=True)
