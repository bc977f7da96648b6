"""SecViT: a vision transformer whose attention runs inside semantic clusters of equal size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmsec import ops
from mmsec.models.backbones.base import Backbone
from mmsec.models.checkpoints import secvit
from mmsec.models.layers.blocks import forward_block
from mmsec.models.layers.cluster_counts import ClusterCount, PerStage, cluster_counts, per_stage
from mmsec.models.layers.secvit import Block, PatchMerging, Stem
from mmsec.registry import MODELS


class Stage(nn.Module):
    """Blocks at one resolution, with a drop path rate and a number of clusters each, and one rotary table for all."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: Sequence[float],
        layer_scale: bool,
        clusters: Sequence[ClusterCount],
        grouping: dict,
        carriers: int,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.head_dim = embed_dims // num_heads
        self.with_cp = with_cp
        self.blocks = nn.ModuleList(
            Block(embed_dims, num_heads, mlp_ratio, rate, layer_scale, grouping, block, count, carriers)
            for block, (rate, count) in enumerate(zip(drop_path, clusters, strict=True))
        )

    def clusters_for(self, num_tokens: int, block: int = 0) -> int:
        """Clusters that a block cuts a map of ``num_tokens`` tokens into, at most one per token."""
        layer: Any = self.blocks[block].get_submodule('attn')
        return layer.count.of(num_tokens)

    def rotary(self, height: int, width: int, x: Tensor) -> Tensor:
        """The rotary table of a map, of the type and on the device that ``x`` needs."""
        return ops.rotary_table(height, width, self.head_dim, x.dtype, x.device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        height, width = x.shape[1:3]
        rotary = self.rotary(height, width, x)
        for block in self.blocks:
            x = forward_block(block, x, rotary, with_cp=self.with_cp)
        return x.permute(0, 3, 1, 2)


@MODELS.register_module()
class SecViT(Backbone):
    """SecViT backbone with one map per stage, at strides 4, 8, 16 and 32.

    Any image size from 1x1 up is taken as it is: clusters of a map differ by at most one token. Stages after the
    last one in ``out_indices`` are not built, so that every parameter receives a gradient.

    Args:
        arch (str | dict): 'tiny', 'small', 'base', 'large', or a dict with the keys ``embed_dims``, ``depths``,
            ``num_heads``, ``mlp_ratio`` and ``layer_scale`` (a bool per stage).
        in_channels (int): Channels of the image. Default: 3.
        num_clusters (Sequence[int | Sequence[int]], optional): Clusters per stage, whatever the image size; a list in
            place of a number has one per block of the stage. Default: (32, 8, 2, 1), as published. Exclusive with
            ``cluster_size``.
        cluster_size (int | Sequence[int | Sequence[int]], optional): Tokens per cluster at most, for all stages, per
            stage or, as above, per block; the number of clusters then grows with the image and the cost is linear.
            Exclusive with ``num_clusters``.
        grouping (dict | Sequence[dict]): Which tokens make a cluster: ``type``, a name in
            :data:`mmsec.ops.grouping.GROUPINGS`, and its options; of all stages, or one dict per stage. Default:
            ``dict(type='SemanticGrouping')``, as published.
        carriers (int): Carriers of each cluster, means of equal parts of it, which the tokens of all clusters attend
            to, too, with a learned gate for each head; see :func:`mmsec.ops.carrier_attention`. Gates start at 0, where
            maps are those without carriers, so published weights load. Blocks of one cluster have none. Default: 0.
        drop_path_rate (float): Drop path of the last block; it rises linearly from 0 over all blocks. Default: 0.1.
        out_indices (Sequence[int]): Stages whose maps are returned, in this order. Default: (0, 1, 2, 3).
        norm_cfg (dict): Norm of stem and patch merging: ``dict(type='BN')`` or ``dict(type='SyncBN')``.
        out_norm (bool): Whether each returned map passes a LayerNorm of its own. Default: True.
        frozen_stages (int): -1 freezes nothing, 0 the stem, i the stem and the first i stages. Default: -1.
        norm_eval (bool): Whether BatchNorm keeps its running statistics in training. Default: False.
        with_cp (bool): Whether to trade time for memory by activation checkpointing. Default: False.
        init_cfg (dict | list[dict], optional): ``dict(type='Pretrained', checkpoint=PATH)``, alone or in a list, loads
            a published SecViT checkpoint or one trained here, strictly; see :mod:`mmsec.models.checkpoints.loading`.
            Default: None, random weights.
        pretrained (str | Path, optional): A checkpoint as in ``init_cfg``, loaded at once, because in Python no host
            calls :meth:`init_weights`. Exclusive with ``init_cfg``. Default: None or False, random weights.

    Raises:
        ValueError: If an option has a value that cannot be used; the message names the option.
        TypeError: If an option is unknown.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3; sizes from the public code (qhfan/SecViT).
    """

    published = secvit.PUBLISHED
    classifier = {'proj.': 'neck.proj.', 'norm.': 'neck.norm.', 'head.': 'head.fc.'}
    arch_zoo = {
        'tiny': dict(
            embed_dims=(64, 128, 256, 512),
            depths=(2, 2, 9, 2),
            num_heads=(2, 4, 8, 16),
            mlp_ratio=3,
            layer_scale=(False, False, False, False),
        ),
        'small': dict(
            embed_dims=(64, 128, 256, 512),
            depths=(3, 4, 18, 4),
            num_heads=(2, 4, 8, 16),
            mlp_ratio=3,
            layer_scale=(False, False, False, False),
        ),
        'base': dict(
            embed_dims=(80, 160, 320, 512),
            depths=(4, 8, 26, 8),
            num_heads=(5, 5, 10, 16),
            mlp_ratio=3,
            layer_scale=(False, False, True, True),
        ),
        'large': dict(
            embed_dims=(112, 224, 448, 640),
            depths=(4, 8, 26, 8),
            num_heads=(7, 7, 14, 20),
            mlp_ratio=3,
            layer_scale=(False, False, True, True),
        ),
    }

    def __init__(
        self,
        arch: str | dict,
        in_channels: int = 3,
        num_clusters: PerStage | None = None,
        cluster_size: int | PerStage | None = None,
        grouping: dict | Sequence[dict] = dict(type='SemanticGrouping'),  # noqa: B006 (OpenMMLab's convention; never mutated)
        carriers: int = 0,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_cfg: dict = dict(type='BN'),  # noqa: B006 (OpenMMLab's convention; never mutated)
        out_norm: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        pretrained: str | Path | bool | None = None,
    ) -> None:
        settings = self.settings(arch, ('embed_dims', 'depths', 'num_heads', 'layer_scale'))
        dims, depths, heads = settings['embed_dims'], settings['depths'], settings['num_heads']
        strides = tuple(4 << i for i in range(len(depths)))
        super().__init__(in_channels, strides, out_indices, frozen_stages, norm_eval, init_cfg, pretrained)
        for width, count in zip(dims, heads, strict=True):
            if width % count or width // count % 4:
                raise ValueError(f'embed_dims / num_heads must be a multiple of 4, got {width} / {count}')
        if num_clusters is None and cluster_size is None:
            num_clusters = (32, 8, 2, 1)
        counts = cluster_counts(num_clusters, cluster_size, depths)
        if isinstance(carriers, bool) or not isinstance(carriers, int) or carriers < 0:
            raise ValueError(f'carriers must be a whole number of at least 0, got {carriers!r}')
        if carriers and all(count.is_global for of_blocks in counts[: max(out_indices) + 1] for count in of_blocks):
            raise ValueError(f'carriers={carriers} need blocks of several clusters, got num_clusters={num_clusters}')
        groupings = per_stage(grouping, len(depths))
        rates = self.drop_path_rates(drop_path_rate, depths)
        if norm_cfg.get('type') not in ('BN', 'SyncBN'):
            raise ValueError(f"norm_cfg must have type 'BN' or 'SyncBN', got {norm_cfg}")

        self.patch_embed = Stem(in_channels, dims[0], norm_cfg)
        self.stages = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        for i in range(max(out_indices) + 1):
            if i:
                self.downsamples.append(PatchMerging(dims[i - 1], dims[i], norm_cfg))
            self.stages.append(
                Stage(
                    dims[i],
                    heads[i],
                    settings['mlp_ratio'],
                    rates[i],
                    settings['layer_scale'][i],
                    counts[i],
                    groupings[i],
                    carriers,
                    with_cp,
                )
            )
        self._init_parameters()
        self.finish(dims, out_norm)

    def _init_parameters(self) -> None:
        """Weights of convolutions and linear layers truncated normal with std 0.02, biases 0, as published."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def parts(self) -> list[list[nn.Module]]:
        """The stem; then each stage, with the patch merging before it."""
        merging = [[], *([each] for each in self.downsamples)]
        return [[self.patch_embed], *([*before, stage] for before, stage in zip(merging, self.stages, strict=True))]

    def convert(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Name published weights as they are named here; see :mod:`mmsec.models.checkpoints.secvit`."""
        return secvit.convert(state)

    def maps(self, x: Tensor) -> dict[int, Tensor]:
        """The map of each stage in ``out_indices``, (B, C, H', W')."""
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))
        maps = {}
        for i, stage in enumerate(self.stages):
            if i:
                x = self.downsamples[i - 1](x)
            x = stage(x)
            if i in self.out_indices:
                maps[i] = x
        return maps
