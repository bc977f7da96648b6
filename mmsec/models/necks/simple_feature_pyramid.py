"""The neck of ViTDet: a pyramid out of the one map of a plain ViT."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsec.models.layers.maps import LayerNorm2d
from mmsec.registry import MODELS


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Four maps at 4, 2, 1 and 1/2 times the resolution of one, and coarser ones by subsampling.

    With patches of 16 pixels their strides are 4, 8, 16, 32, and so on. Transposed convolutions enlarge the map, max
    pooling makes it smaller; then come a 1x1 and a 3x3 convolution, each with a LayerNorm.

    Args:
        in_channels (int): Channels of the backbone's map.
        out_channels (int): Channels of each returned map. Default: 256.
        num_outs (int): Maps to return, at least 4. Default: 5.
        init_cfg (dict | list[dict], optional): As MMEngine's. Default: None.

    Raises:
        ValueError: If ``num_outs`` is below 4.

    Source: Exploring Plain Vision Transformer Backbones for Object Detection (arXiv 2203.16527), section 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        num_outs: int = 5,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_outs < 4:
            raise ValueError(f'num_outs must be at least 4, got {num_outs}')
        half, quarter = in_channels // 2, in_channels // 4
        self.num_outs = num_outs
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                    LayerNorm2d(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, stride=2),
                ),
                nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),  # a map of one token stays one
            ]
        )
        self.outs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for channels in (quarter, half, in_channels, in_channels)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Make the pyramid.

        Args:
            inputs (Sequence[Tensor]): One map, (B, in_channels, H, W).

        Returns:
            tuple[Tensor, ...]: ``num_outs`` maps of ``out_channels``, the largest first: (B, C, 4H, 4W),
            (B, C, 2H, 2W), (B, C, H, W), (B, C, ceil(H/2), ceil(W/2)), and so on.

        Raises:
            ValueError: If there is not exactly one map.
        """
        if len(inputs) != 1:
            raise ValueError(
                f'SimpleFeaturePyramid takes one map, got {len(inputs)}: give the backbone one out_indices'
            )
        maps = [out(scale(inputs[0])) for scale, out in zip(self.scales, self.outs, strict=True)]
        while len(maps) < self.num_outs:
            maps.append(F.max_pool2d(maps[-1], 1, stride=2))
        return tuple(each.contiguous() for each in maps)
