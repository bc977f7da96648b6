"""The same arithmetic in less memory. Fresh memory is page faults on a CPU, and room for a larger batch on a GPU."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmsec.ops.kernels.front import Kernel

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


def gelu_before(mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Kernel, Kernel]:
    """Kernels of GELU and what follows it, whose input is the widest map of a block.

    Args:
        mix (Callable): What follows; it is given GELU's result and the two other arguments of the front.

    Returns:
        tuple[Kernel, Kernel]: For training and for inference.
    """

    def recomputed(x: Tensor, weight: Tensor, bias: Tensor, mine: bool = True) -> Tensor:
        # The backward computes GELU again instead of keeping its result, a seventh of what a block would keep.
        def run(x: Tensor) -> Tensor:
            return mix(F.gelu(x), weight, bias)

        return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)

    def in_place(x: Tensor, weight: Tensor, bias: Tensor, mine: bool = True) -> Tensor:
        return mix(torch.ops.aten.gelu_(x), weight, bias)

    return (
        Kernel('recomputed in the backward', _against_recomputing, recomputed),
        Kernel('in place', _against_gelu_in_place, in_place),
    )


def chunks_apart(linear: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Kernel:
    """A product of its own for each part of a linear layer, so that each part is contiguous.

    Args:
        linear (Callable): The layer; it is given the map, and a part of weight and bias.

    Returns:
        Kernel: For the front that cuts the result of one product.
    """

    def run(x: Tensor, weight: Tensor, bias: Tensor, chunks: int) -> tuple[Tensor, ...]:
        return tuple(linear(x, *part) for part in zip(weight.chunk(chunks), bias.chunk(chunks), strict=True))

    return Kernel('products apart', lambda *args: None, run)


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
