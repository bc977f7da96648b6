"""Layers over maps whose channels come last.

Each is a front in plain torch; :mod:`mmsec.ops.kernels` holds what is faster where, and :func:`mmsec.ops.explain` says
what runs.
"""

import torch.nn.functional as F
from torch import Tensor

from mmsec.ops.kernels import front, memory, onednn, opaque


@front(opaque.CONVOLUTION, memory.CONVOLUTION_IN_PLACE)
def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int, plus: Tensor | None = None
) -> Tensor:
    """Two-dimensional convolution, NHWC in and out.

    Args:
        x (Tensor): (B, H, W, C).
        weight (Tensor): (C', C / groups, K, K).
        bias (Tensor): (C',).
        stride (int): Step of the kernel.
        padding (int): Zeros around the map.
        groups (int): Groups of channels; C for a depthwise convolution.
        plus (Tensor, optional): (B, H', W', C'), added to the result; under autocast it may be wider than the result.

    Returns:
        Tensor: (B, H', W', C').
    """
    out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, 1, groups).permute(0, 2, 3, 1)
    return out if plus is None else out + plus


@front(onednn.LINEAR_AS_CONVOLUTION)
def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer over the channels of a map.

    Args:
        x (Tensor): (B, H, W, C).
        weight (Tensor): (C', C).
        bias (Tensor): (C',).

    Returns:
        Tensor: (B, H, W, C').
    """
    return F.linear(x, weight, bias)


@front(memory.chunks_apart(linear))
def linear_chunks(x: Tensor, weight: Tensor, bias: Tensor, chunks: int) -> tuple[Tensor, ...]:
    """A linear layer whose result is cut into equal parts of the channels, such as queries, keys and values.

    Args:
        x (Tensor): (B, H, W, C).
        weight (Tensor): (chunks * C', C).
        bias (Tensor): (chunks * C',).
        chunks (int): Parts.

    Returns:
        tuple[Tensor, ...]: (B, H, W, C') each.
    """
    return linear(x, weight, bias).chunk(chunks, dim=-1)


@front(memory.SUM_IN_PLACE)
def add(x: Tensor, branch: Tensor, mine: bool = True) -> Tensor:
    """The sum of a map and what a branch made of it.

    Args:
        x (Tensor): (B, H, W, C).
        branch (Tensor): (B, H, W, C).
        mine (bool): Nobody else reads ``branch``: its memory may be used for the sum. Default: True.

    Returns:
        Tensor: (B, H, W, C), of the wider type where the two differ.
    """
    return x + branch


def _mix(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A residual depthwise convolution."""
    return conv2d(x, weight, bias, 1, weight.shape[-1] // 2, x.shape[-1], x)


@front(*memory.gelu_before(_mix))
def gelu_and_mix(x: Tensor, weight: Tensor, bias: Tensor, mine: bool = True) -> Tensor:
    """GELU, and a residual depthwise convolution of its result: ``t = GELU(x)``, ``t + depthwise(t)``.

    Args:
        x (Tensor): (B, H, W, C).
        weight (Tensor): (C, 1, K, K), K odd.
        bias (Tensor): (C,).
        mine (bool): Nobody else reads ``x``: its memory may be used for the result. Default: True.

    Returns:
        Tensor: (B, H, W, C).
    """
    return _mix(F.gelu(x), weight, bias)
