"""What SecViT's published classifier does between the last map and the linear layer."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsec.registry import MODELS


@MODELS.register_module()
class PooledProjection(BaseModule):
    """A 1x1 convolution, BatchNorm, SiLU, and the mean over the map.

    With mmpretrain's ``LinearClsHead`` behind it, it is the published classifier of SecViT.

    Args:
        in_channels (int): Channels of the backbone's last map.
        out_channels (int): Channels of the vector. Default: 1024, as published.
        init_cfg (dict | list[dict], optional): As MMEngine's. Default: the convolution truncated normal, std
            0.02, with bias 0.

    Source: public code of Semantic Equitable Clustering (qhfan/SecViT).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1024,
        init_cfg: dict | list[dict] | None = dict(type='TruncNormal', layer='Conv2d', std=0.02),  # noqa: B006 (OpenMMLab's convention; never mutated)
    ) -> None:
        super().__init__(init_cfg)
        self.proj = nn.Conv2d(in_channels, out_channels, 1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """Make a vector of the last map.

        Args:
            maps (Sequence[Tensor]): (B, C, H', W') maps.

        Returns:
            tuple[Tensor]: One (B, out_channels) tensor.
        """
        x = F.silu(self.norm(self.proj(maps[-1])))  # (B, out_channels, H', W')
        return (x.mean((2, 3)),)
