"""Small layers that several backbones and necks share."""

import torch
from torch import Tensor, nn

from mmsec.registry import MODELS


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
