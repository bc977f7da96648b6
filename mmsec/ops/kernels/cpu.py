"""What makes a backbone faster on CPUs: an opt-in pass over it that can be undone.

Each part is here because it was measured to bring 1.15 times for a whole backbone on some processor
(docs/performance.md).
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsec import compat
from mmsec.ops.kernels import conditions, processor
from mmsec.ops.kernels.dispatch import Kernel


class ConvolutionLinear(nn.Linear):
    """A linear layer over maps as a 1x1 convolution.

    PyTorch hands convolutions to oneDNN and float32 products to MKL, which leaves half of the speed of an AMD processor
    unused.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C'); inputs of other shapes as nn.Linear."""
        if x.dim() != 4:
            return super().forward(x)
        return F.conv2d(x.permute(0, 3, 1, 2), self.weight[..., None, None], self.bias).permute(0, 2, 3, 1)


class _State(threading.local):
    """The optimized backbones whose forward pass is under way in this thread."""

    running: tuple[nn.Module, ...] = ()


_STATE = _State()
_OPTIMIZED: set[int] = set()  # a number for each backbone that is


def _enter(module: nn.Module, inputs: Any) -> None:
    if not compat.is_compiling():  # where plain torch runs anyway
        _STATE.running += (module,)


def _leave(module: nn.Module, inputs: Any, output: Any) -> None:
    if compat.is_compiling():
        return
    if _STATE.running and _STATE.running[-1] is module:  # not if a hook before _enter raised
        _STATE.running = _STATE.running[:-1]


# Of glibc's mallopt: what is changed, the value, and the one that glibc starts from. Maps are larger than what glibc
# keeps by default, so each would be mapped anew, and each page of it be a fault.
_MALLOC = ((-4, 0, 65536), (-1, 2**31 - 1, 128 * 1024))  # M_MMAP_MAX, M_TRIM_THRESHOLD in bytes


def _keep_freed_memory(keep: bool) -> None:
    """Let this process keep up to 2 GiB of freed memory for what comes next, or hand it back as glibc does."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        for name, value, default in _MALLOC:
            mallopt(name, value if keep else default)


def optimize(backbone: nn.Module) -> Callable[[], None]:
    """Make a backbone faster on the CPU of this machine.

    On AMD linear layers are replaced by subclasses with the same parameters, so names in the state dict stay. Attention
    in bfloat16 is computed by another library. The process keeps freed memory.

    A copy of the backbone is optimized, too, and cannot be undone. Quantise before.

    Args:
        backbone (nn.Module): What is called with images.

    Returns:
        Callable: Called without arguments, it undoes all of it.
    """
    replaced = []
    if processor.VENDOR == 'AuthenticAMD':
        for parent in list(backbone.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear) and conditions.why_call(layer, nn.Linear) is None:
                    setattr(parent, name, _as_convolution(layer))
                    replaced.append((parent, name, layer))
    hooks = [
        backbone.register_forward_pre_hook(_enter),
        backbone.register_forward_hook(_leave, always_call=True),
    ]
    number = max(_OPTIMIZED, default=0) + 1
    _OPTIMIZED.add(number)
    _keep_freed_memory(True)

    def undo() -> None:
        if not hooks:
            return
        for hook in hooks:
            hook.remove()
        hooks.clear()
        _OPTIMIZED.discard(number)
        if not _OPTIMIZED:
            _keep_freed_memory(False)
        for parent, name, layer in replaced:
            current = getattr(parent, name, None)
            if type(current) is ConvolutionLinear:  # not what somebody else has put there since
                layer.__dict__ = current.__dict__  # with weights and hooks that came since
                setattr(parent, name, layer)

    return undo


def _as_convolution(layer: nn.Linear) -> ConvolutionLinear:
    """The same layer, sharing its parameters."""
    with torch.device('meta'):
        other = ConvolutionLinear(layer.in_features, layer.out_features, layer.bias is not None)
    other.weight, other.bias = layer.weight, layer.bias
    return other.train(layer.training)


def _against_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> str | None:
    if not _STATE.running:
        return 'mmsec.ops.kernels.cpu.optimize was not called for this backbone'
    if q.device.type != 'cpu':
        return f'not on {q.device.type}'
    if q.dtype != torch.bfloat16:
        return f"PyTorch's own kernels are the faster ones for {q.dtype}"
    if conditions.wants_gradient(q, k, v):
        return 'would keep every attention matrix for the backward'
    if processor.AMX:
        return 'not for a processor with AMX, which PyTorch uses by itself'
    return None if processor.BFLOAT16_PRODUCTS else 'this processor has no bfloat16 products'


def attention_in_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention as two oneDNN products around a softmax, a cache-sized piece at a time.

    PyTorch's CPU kernel multiplies bfloat16 by MKL, which gains nothing over float32 without AMX; oneDNN takes half
    the time (docs/performance.md).

    Args:
        q (Tensor): (n, m, L, d) queries.
        k (Tensor): (n, m, L, d) keys.
        v (Tensor): (n, m, L, d) values.
        bias (Tensor, optional): (n, 1, 1, L), added to the logits.

    Returns:
        Tensor: (n, m, L, d).
    """
    shape = q.shape
    if bias is not None:
        bias = bias.expand(-1, q.shape[1], -1, -1).flatten(0, 1)  # (n, 1, L)
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
            if bias is not None:
                scores += bias[i : i + lists]
            out[i : i + lists, j : j + rows] = scores.softmax(-1) @ v[i : i + lists]
    return out.view(shape)


ATTENTION_IN_PRODUCTS = Kernel('oneDNN products', _against_products, attention_in_products)
