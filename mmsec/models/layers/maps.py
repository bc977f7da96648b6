"""Layers over maps, with weights of their own; :mod:`mmsec.ops` computes them."""

import torch
from torch import Tensor, nn

from mmsec import ops
from mmsec.registry import MODELS


def hooked(*modules: nn.Module) -> bool:
    """Whether anybody has put a hook on one of these modules, and so may keep or change what goes in and out."""
    kinds = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
    return any(getattr(module, kind) for module in modules for kind in kinds)


class Conv2d(nn.Conv2d):
    """Convolution of a square kernel whose result is in channels-last memory."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        x = x.permute(0, 2, 3, 1)
        out = ops.conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0], self.groups)
        return out.permute(0, 3, 1, 2)


class DepthwiseConv(nn.Conv2d):
    """Same-size depthwise convolution whose result is added to a map; NHWC in and out."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor, plus: Tensor) -> Tensor:  # type: ignore[override]  # the sum is a part of it
        """``plus`` + the convolution of ``x``; (B, H, W, C) each."""
        return ops.conv2d(x, self.weight, self.bias, 1, self.padding[0], self.groups, plus)


class Linear(nn.Linear):
    """Linear layer over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C')."""
        return ops.linear(x, self.weight, self.bias)


class LayerScale(nn.Module):
    """Learned factor per channel.

    Args:
        embed_dims (int): Channels.
        init_value (float): What every factor starts from. Default: 1e-6.
    """

    def __init__(self, embed_dims: int, init_value: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dims,), init_value))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return x * self.gamma


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map; in configs ``norm_cfg=dict(type='mmsec.LayerNorm2d')``.

    Args:
        num_features (int): Channels.
        eps (float): Added to the variance. Default: 1e-6; a ``norm_cfg`` without ``eps`` gets mmcv's, 1e-5.
    """

    def __init__(self, num_features: int, eps: float = 1e-6) -> None:
        super().__init__(num_features, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
