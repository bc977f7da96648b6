"""Products in oneDNN where PyTorch would hand them to MKL."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec.ops.kernels import opaque, processor
from mmsec.ops.kernels.front import Kernel


def _against_linear_as_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    if x.device.type != 'cpu':
        return f'not on {x.device.type}'
    if processor.VENDOR != 'AuthenticAMD':
        return f'measured to be faster on AMD processors, and not on {processor.VENDOR}'
    return None


def _linear_as_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # PyTorch hands convolutions to oneDNN and float32 products to MKL, which leaves half of the speed of an AMD
    # processor unused (docs/performance.md).
    if torch.compiler.is_compiling():
        return opaque.CONVOLUTION.run(x, weight[..., None, None], bias, 1, 0, 1)
    return F.conv2d(x.permute(0, 3, 1, 2), weight[..., None, None], bias).permute(0, 2, 3, 1)


LINEAR_AS_CONVOLUTION = Kernel('convolution', _against_linear_as_convolution, _linear_as_convolution)


def _against_products(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    if q.device.type != 'cpu' or q.dtype != torch.bfloat16:
        return f"PyTorch's own kernels are the faster ones for {q.dtype} on {q.device.type}"
    if torch.compiler.is_compiling():
        return 'not under torch.compile'
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return 'would keep every attention matrix for the backward'
    if processor.AMX:
        return 'not for a processor with AMX, which PyTorch uses by itself'
    return None if processor.BFLOAT16_PRODUCTS else 'this processor has no bfloat16 products'


def attention_in_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as two oneDNN products around a softmax, (..., L, d) in and out, a cache-sized piece at a time.

    PyTorch's CPU kernel multiplies bfloat16 by MKL, which gains nothing over float32 without AMX; oneDNN takes half
    the time (docs/performance.md).
    """
    shape = q.shape
    q, k, v = (x.flatten(0, -3) for x in (q, k, v))  # (n, L, d)
    entries = 2**20  # of the attention matrix at a time: 2 MiB
    count, length, dim = q.shape
    rows = max(1, min(length, entries // length))
    lists = max(1, entries // (length * rows))
    out, k = torch.empty_like(q), k.transpose(1, 2)
    for i in range(0, count, lists):
        for j in range(0, length, rows):
            part = q[i : i + lists, j : j + rows]
            scores = torch.baddbmm(part.new_empty(()), part, k[i : i + lists], beta=0, alpha=dim**-0.5)
            out[i : i + lists, j : j + rows] = scores.softmax(-1) @ v[i : i + lists]
    return out.view(shape)


ATTENTION_IN_PRODUCTS = Kernel('oneDNN products', _against_products, attention_in_products)
