"""SecViT: a vision transformer whose attention runs inside semantic clusters of equal size."""

import logging
from collections.abc import Sequence

import torch.utils.checkpoint
from mmengine.logging import print_log
from mmengine.model import BaseModule, initialize
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsec.models.checkpoint import is_pretrained, load_pretrained
from mmsec.models.layers import Block, PatchMerging, Stem
from mmsec.ops import cluster_ranks, rotary_table, semantic_grouping, semantic_scores
from mmsec.registry import MODELS


class Stage(nn.Module):
    """Blocks at one resolution; the rotary table is built once for all of them.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Attention heads.
        mlp_ratio (float): Hidden channels of each FFN over C.
        drop_path (Sequence[float]): Drop path rate of each block.
        layer_scale (bool): Whether the blocks have layer scale.
        num_clusters (int, optional): Clusters M whatever the map's size.
        cluster_size (int, optional): Tokens a cluster holds at most; used where ``num_clusters`` is None.
        with_cp (bool): Whether to recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: Sequence[float],
        layer_scale: bool,
        num_clusters: int | None,
        cluster_size: int | None,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.head_dim = embed_dims // num_heads
        self.num_clusters = num_clusters
        self.cluster_size = cluster_size
        self.with_cp = with_cp
        self.blocks = nn.ModuleList(Block(embed_dims, num_heads, mlp_ratio, rate, layer_scale) for rate in drop_path)

    def clusters_for(self, num_tokens: int) -> int:
        """Clusters that a map of ``num_tokens`` tokens is cut into, at most one per token."""
        if self.num_clusters is not None:
            return min(self.num_clusters, num_tokens)
        return -(-num_tokens // self.cluster_size)

    def rotary(self, height: int, width: int, x: Tensor) -> Tensor:
        """The rotary table of a map, of the type and on the device that ``x`` needs."""
        return rotary_table(height, width, self.head_dim, x.dtype, x.device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        height, width = x.shape[1:3]
        rotary = self.rotary(height, width, x)
        num_clusters = self.clusters_for(height * width)
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, rotary, num_clusters, use_reentrant=False)
            else:
                x = block(x, rotary, num_clusters)
        return x.permute(0, 3, 1, 2)


@MODELS.register_module()
class SecViT(BaseModule):
    """SecViT backbone with one map per stage, at strides 4, 8, 16 and 32.

    Any image size from 1x1 up is taken as it is: clusters of a map differ by at most one token. Stages after the
    last one in ``out_indices`` are not built, so that every parameter receives a gradient.

    Args:
        arch (str | dict): 'tiny', 'small', 'base', 'large', or a dict with the keys ``embed_dims``, ``depths``,
            ``num_heads``, ``mlp_ratio`` and ``layer_scale`` (a bool per stage).
        in_channels (int): Channels of the image. Default: 3.
        num_clusters (Sequence[int], optional): Clusters per stage, whatever the image size. Default: (32, 8, 2, 1), as
            published. Exclusive with ``cluster_size``.
        cluster_size (int | Sequence[int], optional): Tokens per cluster at most, for all stages or per stage; the
            number of clusters then grows with the image and the cost is linear. Exclusive with ``num_clusters``.
        drop_path_rate (float): Drop path of the last block; it rises linearly from 0 over all blocks. Default: 0.1.
        out_indices (Sequence[int]): Stages whose maps are returned, in this order. Default: (0, 1, 2, 3).
        norm_cfg (dict): Norm of stem and patch merging: ``dict(type='BN')`` or ``dict(type='SyncBN')``.
        out_norm (bool): Whether each returned map passes a LayerNorm of its own. Default: True.
        frozen_stages (int): -1 freezes nothing, 0 the stem, i the stem and the first i stages. Default: -1.
        norm_eval (bool): Whether BatchNorm keeps its running statistics in training. Default: False.
        with_cp (bool): Whether to trade time for memory by activation checkpointing. Default: False.
        init_cfg (dict | list[dict], optional): ``dict(type='Pretrained', checkpoint=PATH)``, alone or in a list, loads
            a published SecViT checkpoint or one trained here, strictly; see :mod:`mmsec.models.checkpoint`. Default:
            None, random weights.

    Raises:
        ValueError: If an option has a value that cannot be used; the message names the option.
        TypeError: If an option is unknown.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3; sizes from the public code (qhfan/SecViT).
    """

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
        num_clusters: Sequence[int] | None = None,
        cluster_size: int | Sequence[int] | None = None,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_cfg: dict = dict(type='BN'),  # noqa: B006 (OpenMMLab's convention; never mutated)
        out_norm: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        settings = self._settings(arch)
        dims, depths, heads = settings['embed_dims'], settings['depths'], settings['num_heads']
        num_stages = len(depths)
        num_clusters, cluster_size = self._clustering(num_clusters, cluster_size, num_stages)
        if in_channels < 1:
            raise ValueError(f'in_channels must be at least 1, got {in_channels}')
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate must be in [0, 1), got {drop_path_rate}')
        if norm_cfg.get('type') not in ('BN', 'SyncBN'):
            raise ValueError(f"norm_cfg must have type 'BN' or 'SyncBN', got {norm_cfg}")
        if not out_indices or len(set(out_indices)) < len(out_indices):
            raise ValueError(f'out_indices must name at least one stage, each once, got {tuple(out_indices)}')
        if not set(out_indices) <= set(range(num_stages)):
            raise ValueError(f'out_indices must be in [0, {num_stages - 1}], got {tuple(out_indices)}')
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(f'frozen_stages must be in [-1, {num_stages}], got {frozen_stages}')

        self.in_channels = in_channels
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        rates = [drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        self.patch_embed = Stem(in_channels, dims[0], norm_cfg)
        self.stages = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        for i in range(max(out_indices) + 1):
            if i:
                self.downsamples.append(PatchMerging(dims[i - 1], dims[i], norm_cfg))
            first = sum(depths[:i])
            self.stages.append(
                Stage(
                    dims[i],
                    heads[i],
                    settings['mlp_ratio'],
                    rates[first : first + depths[i]],
                    settings['layer_scale'][i],
                    num_clusters[i] if num_clusters else None,
                    cluster_size[i] if cluster_size else None,
                    with_cp,
                )
            )
        self.out_norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(dims[i], eps=1e-6) for i in sorted(out_indices)} if out_norm else {}
        )
        self._init_parameters()
        self._freeze()

    @classmethod
    def _settings(cls, arch: str | dict) -> dict:
        """Sizes of ``arch``, checked."""
        if isinstance(arch, str):
            if arch not in cls.arch_zoo:
                raise ValueError(f'arch must be one of {sorted(cls.arch_zoo)} or a dict, got {arch!r}')
            return cls.arch_zoo[arch]
        expected = set(cls.arch_zoo['tiny'])
        if set(arch) != expected:
            raise ValueError(f'an arch dict must have the keys {sorted(expected)}, got {sorted(arch)}')
        per_stage = {key: len(arch[key]) for key in ('embed_dims', 'depths', 'num_heads', 'layer_scale')}
        if len(set(per_stage.values())) != 1:
            raise ValueError(f'the lists of an arch dict must have one length, got {per_stage}')
        for dims, heads in zip(arch['embed_dims'], arch['num_heads'], strict=True):
            if dims % heads or dims // heads % 4:
                raise ValueError(f'embed_dims / num_heads must be a multiple of 4, got {dims} / {heads}')
        return arch

    @staticmethod
    def _clustering(
        num_clusters: Sequence[int] | None, cluster_size: int | Sequence[int] | None, num_stages: int
    ) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        """The one of ``num_clusters`` and ``cluster_size`` that is in force, per stage, and None."""
        if num_clusters is not None and cluster_size is not None:
            raise ValueError(
                'num_clusters and cluster_size exclude each other, '
                f'got num_clusters={num_clusters} and cluster_size={cluster_size}'
            )
        if num_clusters is None and cluster_size is None:
            num_clusters = (32, 8, 2, 1)
        if isinstance(cluster_size, int):
            cluster_size = (cluster_size,) * num_stages
        for name, values in (('num_clusters', num_clusters), ('cluster_size', cluster_size)):
            if values is None:
                continue
            if isinstance(values, int) or len(values) != num_stages:
                raise ValueError(f'{name} must have one value per stage, {num_stages}, got {values}')
            if any(value < 1 for value in values):
                raise ValueError(f'{name} must be at least 1, got {tuple(values)}')
        return num_clusters, cluster_size

    def _init_parameters(self) -> None:
        """Weights of convolutions and linear layers truncated normal with std 0.02, biases 0, as published."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def init_weights(self) -> None:
        """Apply MMEngine's initialisers that ``init_cfg`` names, then load its checkpoint, if it names one, strictly.

        Raises:
            InputError: If the checkpoint is missing, cannot be read, or lacks a weight of this backbone.
            ValueError: If ``init_cfg`` names several checkpoints, or keys that a checkpoint has no use for.
        """
        init_cfgs = self.init_cfg if isinstance(self.init_cfg, list | tuple) else [self.init_cfg or {}]
        pretrained = [each for each in init_cfgs if is_pretrained(each)]
        if len(pretrained) > 1:
            raise ValueError(f'SecViT loads one checkpoint, got {len(pretrained)} in init_cfg')
        if pretrained:
            unknown = set(pretrained[0]) - {'type', 'checkpoint'}
            if unknown:
                raise ValueError(f'SecViT takes init_cfg keys type and checkpoint, got also {sorted(unknown)}')
            initialize(self, [each for each in init_cfgs if not is_pretrained(each)])
            load_pretrained(self, pretrained[0]['checkpoint'])
            self._is_init = True
            return
        super().init_weights()
        fixed = [f'norm_eval={self.norm_eval}'] * self.norm_eval
        fixed += [f'frozen_stages={self.frozen_stages}'] * (self.frozen_stages >= 0)
        if fixed:
            print_log(
                f'SecViT starts from random weights, and {" and ".join(fixed)} keeps what was never trained as it is '
                '(BatchNorm: mean 0, variance 1). Unless a checkpoint is loaded after this, set norm_eval=False and '
                'frozen_stages=-1',
                logger='current',
                level=logging.WARNING,
            )

    def _freeze(self) -> None:
        """Stop the gradients of the frozen stages."""
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def _frozen_modules(self) -> list[nn.Module]:
        """The stem and the first ``frozen_stages`` stages with the patch merging and output norm they use."""
        if self.frozen_stages < 0:
            return []
        frozen: list[nn.Module] = [self.patch_embed]
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen.append(self.stages[i])
            if i:
                frozen.append(self.downsamples[i - 1])
            if str(i) in self.out_norms:
                frozen.append(self.out_norms[str(i)])
        return frozen

    def train(self, mode: bool = True) -> 'SecViT':
        """Set training mode; frozen stages, and every BatchNorm under ``norm_eval``, stay in evaluation mode."""
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices``.

        Args:
            x (Tensor): (B, in_channels, H, W) images, H and W from 1 up.

        Returns:
            tuple[Tensor, ...]: Per stage i of ``out_indices`` a contiguous (B, embed_dims[i], ceil(H / 2^(i+2)),
            ceil(W / 2^(i+2))) map, each halving rounded up.

        Raises:
            ValueError: If the input is not (B, in_channels, H, W) with H and W at least 1.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f'expected images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}')
        if x.shape[0] < 1 or x.shape[2] < 1 or x.shape[3] < 1:
            raise ValueError(f'batch, height and width must be at least 1, got images of shape {tuple(x.shape)}')
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))
        maps = {}
        for i, stage in enumerate(self.stages):
            if i:
                x = self.downsamples[i - 1](x)
            x = stage(x)
            if i in self.out_indices:
                maps[i] = self._returned(x, i)
        return tuple(maps[i] for i in self.out_indices)

    @torch.no_grad()
    def clusters(self, x: Tensor, stages: Sequence[int], block: int = -1) -> list[tuple[Tensor, Tensor]]:
        """Look at the clusters that attention uses, in one pass, with all norms in evaluation mode.

        Args:
            x (Tensor): (B, in_channels, H, W) images, as :meth:`forward` takes them.
            stages (Sequence[int]): Stages from 0, as in ``out_indices``.
            block (int): Block of each stage from 0, or from its end if negative. Default: -1.

        Returns:
            list[tuple[Tensor, Tensor]]: For each stage that was asked for, in that order: for each token of its map the
            cluster it is in, (B, heads, H', W') int64 from 0 for the lowest scores, and its score, the cosine of its
            key with the mean key, (B, heads, H', W').

        Raises:
            ValueError: If there is no such stage or block.
        """
        layers = []
        for stage in stages:
            if not 0 <= stage < len(self.stages):
                raise ValueError(f'stage must be in [0, {len(self.stages) - 1}], got {stage}')
            blocks = self.stages[stage].blocks
            if not -len(blocks) <= block < len(blocks):
                raise ValueError(f'stage {stage} has {len(blocks)} blocks, got block {block}')
            layers.append(blocks[block].attn)
        seen: dict[nn.Module, tuple[Tensor, Tensor, int]] = {}
        hooks = [layer.register_forward_pre_hook(seen.__setitem__) for layer in layers]
        training = self.training
        try:
            self.eval()
            self(x)
        finally:
            for hook in hooks:
                hook.remove()
            self.train(training)
        found = []
        for layer in layers:
            tokens, rotary, num_clusters = seen[layer]
            _, keys = layer.queries_and_keys(tokens, rotary)
            size = tokens.shape[1:3]
            ranks, scores = cluster_ranks(semantic_grouping(keys, num_clusters)), semantic_scores(keys)  # (B, h, N)
            found.append((ranks.unflatten(-1, size), scores.unflatten(-1, size)))
        return found

    def _returned(self, x: Tensor, index: int) -> Tensor:
        """Stage ``index``'s map as the host gets it: normalised if asked, contiguous NCHW."""
        if str(index) in self.out_norms:
            x = self.out_norms[str(index)](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x.contiguous()
