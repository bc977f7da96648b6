"""ClusTR: a vision transformer in which all tokens attend to few, the tokens of clusters at two scales."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmsec.models.backbones.base import Backbone
from mmsec.models.checkpoints import clustr
from mmsec.models.layers.blocks import forward_block
from mmsec.models.layers.clustr import Block, PatchEmbed
from mmsec.registry import MODELS


class Stage(nn.Module):
    """Patches of the map before, blocks at one resolution, and a norm whose output is the stage's map."""

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        stride: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: Sequence[float],
        reduction: int,
        region_size: int | None,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.patch_embed = PatchEmbed(in_channels, embed_dims, patch_size, stride)
        self.blocks = nn.ModuleList(
            Block(embed_dims, num_heads, mlp_ratio, rate, reduction, region_size) for rate in drop_path
        )
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, C, ceil(H/stride), ceil(W/stride))."""
        x = self.patch_embed(x)  # (B, H', W', C)
        for block in self.blocks:
            x = forward_block(block, x, with_cp=self.with_cp)
        return self.norm(x).permute(0, 3, 1, 2)


@MODELS.register_module()
class ClusTR(Backbone):
    """ClusTR backbone with one map per stage, at strides 4, 8, 16 and 32.

    Any image size from 1x1 up is taken as it is. Results are deterministic, and an image's result does not depend on
    its batch. Stages after the last one in ``out_indices`` are not built, so that every parameter receives a gradient.
    A map is the output of its stage's own LayerNorm, which is also what the next stage gets.

    Args:
        arch (str | dict): 'b1', 'b2', 'b3', or a dict with the keys ``embed_dims``, ``depths``, ``num_heads``,
            ``mlp_ratios`` and ``sr_ratios``, each a list with an entry for each stage. An sr_ratio is the side of the
            square of tokens that a cluster of the coarse scale stands for on average; the fine scale has 4 times as
            many clusters. 1 is attention to all tokens.
        in_channels (int): Channels of the image. Default: 3.
        region_size (int, optional): Most tokens that are clustered together. Larger maps are cut into regions, and cost
            grows with the area instead of its square. Clusters do not reach beyond their region then, which is not what
            was published. Default: None, whole maps, as published.
        drop_path_rate (float): Drop path of the last block; it rises linearly from 0 over all blocks. Default: 0.1.
        out_indices (Sequence[int]): Stages whose maps are returned, in this order. Default: (0, 1, 2, 3).
        frozen_stages (int): -1 freezes nothing, 0 the stem, i the stem and the first i stages. Default: -1.
        with_cp (bool): Whether to trade time for memory by activation checkpointing. Default: False.
        init_cfg (dict | list[dict], optional): ``dict(type='Pretrained', checkpoint=PATH)``, alone or in a list, loads
            a published ClusTR checkpoint or one trained here, strictly; see :mod:`mmsec.models.checkpoints.loading`.
            Default: None, random weights.
        pretrained (str | Path, optional): A checkpoint as in ``init_cfg``, loaded at once, because in Python no host
            calls :meth:`init_weights`. Exclusive with ``init_cfg``. Default: None or False, random weights.

    Raises:
        ValueError: If an option has a value that cannot be used; the message names the option.
        TypeError: If an option is unknown.

    Source: ClusTR (arXiv 2208.13138), section 3; sizes from the public code (YtongXie/ClusTR).
    """

    published = clustr.PUBLISHED
    arch_zoo = {
        'b1': dict(
            embed_dims=(64, 128, 256, 512),
            depths=(1, 2, 6, 1),
            num_heads=(1, 2, 4, 8),
            mlp_ratios=(8, 8, 4, 4),
            sr_ratios=(8, 4, 2, 1),
        ),
        'b2': dict(
            embed_dims=(64, 128, 256, 512),
            depths=(3, 5, 13, 2),
            num_heads=(1, 2, 4, 8),
            mlp_ratios=(8, 8, 4, 4),
            sr_ratios=(8, 4, 2, 1),
        ),
        'b3': dict(
            embed_dims=(64, 128, 320, 512),
            depths=(3, 5, 18, 3),
            num_heads=(1, 2, 5, 8),
            mlp_ratios=(8, 8, 4, 4),
            sr_ratios=(8, 4, 2, 1),
        ),
    }

    def __init__(
        self,
        arch: str | dict,
        in_channels: int = 3,
        region_size: int | None = None,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        pretrained: str | Path | bool | None = None,
    ) -> None:
        settings = self.settings(arch, ('embed_dims', 'depths', 'num_heads', 'mlp_ratios', 'sr_ratios'))
        dims, heads, ratios = settings['embed_dims'], settings['num_heads'], settings['sr_ratios']
        strides = tuple(4 << i for i in range(len(dims)))
        super().__init__(in_channels, strides, out_indices, frozen_stages, False, init_cfg, pretrained)
        for width, count in zip(dims, heads, strict=True):
            if width % count:
                raise ValueError(f'embed_dims must be a multiple of num_heads, got {width} and {count}')
        if any(ratio < 1 for ratio in ratios):
            raise ValueError(f'sr_ratios must be at least 1, got {tuple(ratios)}')
        rates = self.drop_path_rates(drop_path_rate, settings['depths'])
        self.stages = nn.ModuleList(
            Stage(
                dims[i - 1] if i else in_channels,
                dims[i],
                patch_size=3 if i else 7,
                stride=2 if i else 4,
                num_heads=heads[i],
                mlp_ratio=settings['mlp_ratios'][i],
                drop_path=rates[i],
                reduction=ratios[i],
                region_size=region_size,
                with_cp=with_cp,
            )
            for i in range(max(out_indices) + 1)
        )
        self._init_parameters()
        self.finish(dims, out_norm=False)

    def _init_parameters(self) -> None:
        """Linear layers truncated normal, std 0.02; convolutions normal by their fan-out; biases 0, as published."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                fan_out = module.weight[:, 0].numel() // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def parts(self) -> list[list[nn.Module]]:
        """The stem, which is the patch embedding of the first stage; the rest of that stage; then each stage."""
        patch_embed, *rest = self.stages[0].children()
        return [[patch_embed], rest, *([stage] for stage in self.stages[1:])]

    def convert(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Name published weights as they are named here; see :mod:`mmsec.models.checkpoints.clustr`."""
        return clustr.convert(state)

    def maps(self, x: Tensor) -> dict[int, Tensor]:
        """The map of each stage in ``out_indices``, (B, C, H', W')."""
        x = x.contiguous(memory_format=torch.channels_last)
        maps = {}
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                maps[i] = x
        return maps
