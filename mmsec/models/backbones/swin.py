"""A host's Swin Transformer whose attention runs inside clusters in place of windows."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmsec.models.backbones.base import Backbone
from mmsec.models.checkpoints import swin
from mmsec.models.layers.blocks import forward_block
from mmsec.models.layers.cluster_counts import PerStage, cluster_counts, per_stage
from mmsec.models.layers.swin import ClusterMSA
from mmsec.registry import MODELS

_UNUSED = {'attn_drop_rate': 0.0, 'qk_scale': None, 'use_abs_pos_embed': False, 'pretrained': None}


@MODELS.register_module()
class ClusteredSwin(Backbone):
    """Swin Transformer of mmdetection or mmsegmentation with clusters in place of its windows, in every block.

    What the paper publishes of its own Swin is a row in a table; how clusters and windows share the blocks and what
    becomes of relative positions is not. Here clusters take the place of plain and of shifted windows, and the table of
    relative positions is left out, because it has no entry for tokens that are further apart than a window is wide.
    Weights published for Swin load; the log names what is not used.

    Args:
        backbone (dict): ``type='SwinTransformer'`` and its options, as in a config of the host. Outside of a config of
            the host the type needs its scope, such as 'mmdet.SwinTransformer'.
        num_clusters (Sequence[int | Sequence[int]], optional): Clusters per stage, whatever the image size; a list in
            place of a number has one per block of the stage. Exclusive with ``cluster_size``.
        cluster_size (int | Sequence[int | Sequence[int]], optional): Tokens per cluster at most, for all stages, per
            stage or, as above, per block. Default: as many as a window holds, so that attention costs the same.
        grouping (dict | Sequence[dict]): Which tokens make a cluster, of all stages, or one dict per stage; see
            :data:`mmsec.ops.grouping.GROUPINGS`. Default: ``dict(type='SemanticGrouping')``, as published.
        init_cfg (dict | list[dict], optional): As MMEngine's; ``dict(type='Pretrained', checkpoint=PATH)`` loads a file
            of the Swin authors, of a host, or of this backbone, strictly. It may stand in ``backbone`` instead.
        pretrained (str | Path, optional): A checkpoint as in ``init_cfg``, loaded at once, because in Python no host
            calls :meth:`init_weights`. Exclusive with ``init_cfg``. Default: None or False, random weights.

    Raises:
        ValueError: If ``backbone`` is something else than a Swin, or an option has a value that cannot be used.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), the table that puts its clusters into other models.
    """

    published = swin.PUBLISHED
    arch_zoo = {}

    def __init__(
        self,
        backbone: dict,
        num_clusters: PerStage | None = None,
        cluster_size: int | PerStage | None = None,
        grouping: dict | Sequence[dict] = dict(type='SemanticGrouping'),  # noqa: B006 (OpenMMLab's convention; never mutated)
        init_cfg: dict | list[dict] | None = None,
        pretrained: str | Path | bool | None = None,
    ) -> None:
        if not isinstance(backbone, dict):
            raise ValueError(f"backbone must be a dict(type='mmdet.SwinTransformer', ...), got {backbone!r}")
        options = dict(backbone)
        for name, needed in _UNUSED.items():
            if options.get(name, needed) != needed:
                raise ValueError(f'backbone.{name} must be {needed}, clusters cannot use it, got {options[name]!r}')
        inner_init_cfg = options.pop('init_cfg', None)
        if init_cfg and inner_init_cfg:
            raise ValueError('init_cfg is given twice, in backbone and beside it')
        init_cfg = init_cfg or inner_init_cfg
        frozen_stages, self.with_cp = options.pop('frozen_stages', -1), options.pop('with_cp', False)
        out_indices = options.get('out_indices', (0, 1, 2, 3))
        strides = tuple(accumulate(options.get('strides', (4, 2, 2, 2)), mul))
        super().__init__(
            options.get('in_channels', 3), strides, out_indices, frozen_stages, False, init_cfg, pretrained
        )
        host: Any = MODELS.build(options)
        if type(host).__name__ != 'SwinTransformer':
            raise ValueError(f'backbone must be a SwinTransformer of mmdet or mmseg, got a {type(host).__name__}')

        depths = [len(stage.blocks) for stage in host.stages]
        if num_clusters is None and cluster_size is None:
            cluster_size = options.get('window_size', 7) ** 2
        counts = cluster_counts(num_clusters, cluster_size, depths)
        groupings = per_stage(grouping, len(depths))
        self.patch_embed = host.patch_embed
        self.drop_after_pos = host.drop_after_pos
        stages = list(host.stages)[: max(out_indices) + 1]
        for i, stage in enumerate(stages):
            for j, block in enumerate(stage.blocks):
                block.attn = ClusterMSA(block.attn, groupings[i], j, counts[i][j])
        stages[-1].downsample = None
        self.stages = nn.ModuleList(stages)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.out_norms.update({str(i): getattr(host, f'norm{i}') for i in sorted(out_indices)})
        self.finish(host.num_features, out_norm=False)

    def parts(self) -> list[list[nn.Module]]:
        """The patch embedding; then each stage's blocks, with the patch merging before them."""
        parts: list[list[Any]] = [[self.patch_embed, self.drop_after_pos]]
        for i, stage in enumerate(self.stages):
            parts.append([*([self.stages[i - 1].downsample] if i else []), stage.blocks])
        return parts

    def convert(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Name published weights as they are named here; see :mod:`mmsec.models.checkpoints.swin`."""
        converted, dropped = swin.convert(state)
        unused = [key for key in converted if key.startswith(f'stages.{len(self.stages) - 1}.downsample.')]
        return {key: value for key, value in converted.items() if key not in unused}, dropped + unused

    def maps(self, x: Tensor) -> dict[int, Tensor]:
        """The map of each stage in ``out_indices``, (B, C, H', W')."""
        x, size = self.patch_embed(x)  # (B, N, C)
        x = self.drop_after_pos(x)
        maps = {}
        stages: list[Any] = list(self.stages)
        for i, stage in enumerate(stages):
            if i:
                x, size = stages[i - 1].downsample(x, size)
            for block in stage.blocks:
                x = forward_block(block, x, size, with_cp=self.with_cp)
            if i in self.out_indices:
                maps[i] = x.transpose(1, 2).unflatten(2, size)
        return maps
