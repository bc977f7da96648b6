"""Fused ops over maps whose channels come last: what stands here is plain torch, and calls the layers it is given.

:mod:`mmsec.ops.kernels` holds what is faster where, and :func:`mmsec.ops.explain` says what runs.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmsec.ops.kernels import backwards, fused_op, opaque, triton


@fused_op(opaque.CONVOLUTION, triton.DEPTHWISE)
def conv_residual(x: Tensor, conv: nn.Module, residual: Tensor) -> Tensor:
    """``residual + conv(x)``.

    Args:
        x (Tensor): (B, H, W, C).
        conv (nn.Module): Keeps the size of (B, C, H, W) maps, such as a depthwise ``nn.Conv2d``.
        residual (Tensor): (B, H, W, C).

    Returns:
        Tensor: (B, H, W, C).
    """
    return residual + conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@fused_op(triton.DEPTHWISE_NORM)
def conv_residual_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """``x + conv(x)``, and its norm.

    Args:
        x (Tensor): (B, H, W, C).
        conv (nn.Module): As in :func:`conv_residual`.
        norm (nn.Module): Over the last dimension.

    Returns:
        tuple[Tensor, Tensor]: (B, H, W, C) each.
    """
    x = conv_residual(x, conv, x)
    return x, norm(x)


@fused_op(triton.GELU_DEPTHWISE, backwards.GELU_RECOMPUTED)
def gelu_conv_residual(x: Tensor, conv: nn.Module) -> Tensor:
    """``t + conv(t)`` of ``t = GELU(x)``.

    Args:
        x (Tensor): (B, H, W, C).
        conv (nn.Module): As in :func:`conv_residual`.

    Returns:
        Tensor: (B, H, W, C).
    """
    x = F.gelu(x)
    return conv_residual(x, conv, x)


@fused_op(triton.RESIDUAL)
def residual(x: Tensor, branch: Tensor, scale: nn.Module, drop_path: nn.Module) -> Tensor:
    """``x + drop_path(scale(branch))``.

    Args:
        x (Tensor): (B, ..., C).
        branch (Tensor): (B, ..., C).
        scale (nn.Module): Layer scale, or ``nn.Identity``.
        drop_path (nn.Module): Drops the branch of some images.

    Returns:
        Tensor: (B, ..., C).
    """
    return x + drop_path(scale(branch))


@fused_op(triton.RESIDUAL_NORM)
def residual_norm(
    x: Tensor, branch: Tensor, scale: nn.Module, drop_path: nn.Module, norm: nn.Module
) -> tuple[Tensor, Tensor]:
    """``x + drop_path(scale(branch))``, and its norm.

    Args:
        x (Tensor): (B, ..., C).
        branch (Tensor): (B, ..., C).
        scale (nn.Module): Layer scale, or ``nn.Identity``.
        drop_path (nn.Module): Drops the branch of some images.
        norm (nn.Module): Over the last dimension.

    Returns:
        tuple[Tensor, Tensor]: (B, ..., C) each.
    """
    x = residual(x, branch, scale, drop_path)
    return x, norm(x)


@fused_op(opaque.CALL, triton.WEIGHTS_CAST_TOGETHER)
def call(block: nn.Module, *inputs: Any) -> Any:
    """``block(*inputs)``; what concerns all layers inside may be done together, such as autocast's copies of weights.

    Args:
        block (nn.Module): A block of layers, or one layer.
        inputs (Any): Its inputs; the first is a tensor.

    Returns:
        Any: Its output.
    """
    return block(*inputs)
