"""ViT: a plain vision transformer with a map of one stride, whose tokens may merge on the way."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmsec.models.backbones.base import Backbone
from mmsec.models.checkpoints import vit
from mmsec.models.layers.blocks import forward_block
from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.models.layers.mlp import MLP, SwiGLU
from mmsec.models.layers.token_list import Merge, TokenList
from mmsec.models.layers.vit import Attention, Block, PatchEmbed, WindowAttention
from mmsec.ops.merging import MERGINGS, Merging
from mmsec.registry import MODELS

# What an arch may leave out.
_OPTIONAL = dict(num_registers=0, layer_scale=0.0, rotary=False, swiglu=False, norm_eps=1e-6)
_DINOV3 = dict(num_registers=4, layer_scale=1e-5, rotary=True, norm_eps=1e-5)


@MODELS.register_module()
class ViT(Backbone):
    """Plain vision transformer; each block is a stage of the backbone, and all maps have the stride of a patch.

    Any image size from 1x1 up is taken: zeros fill up the last patches, and positions are resized bicubically. Blocks
    after the last one in ``out_indices`` are not built, so that every parameter receives a gradient.

    Args:
        arch (str | dict): 'tiny', 'small', 'base', 'large'; for DINOv3's files 'dinov3-small', 'dinov3-small-plus',
            'dinov3-base', 'dinov3-large', 'dinov3-large-plus', 'dinov3-huge-plus', 'dinov3-7b'; or a dict with the keys
            ``embed_dims``, ``depth``, ``num_heads`` and ``mlp_ratio``, which is the hidden width over ``embed_dims``.
            It may have ``rotary`` (whether positions are DINOv3's rotary ones instead of learned ones), ``swiglu``
            (whether MLPs are gated), ``norm_eps`` (1e-6 if left out), ``num_registers`` and ``layer_scale``.
        in_channels (int): Channels of the image. Default: 3.
        patch_size (int): Height and width of a patch in pixels. Default: 16.
        img_size (int | Sequence[int]): Height and width of the images that positions are learned for. A checkpoint's
            are resized to them. Rotary positions are those of the image, whatever this is. Default: 224.
        out_indices (Sequence[int], optional): Blocks whose maps are returned, in this order. Default: None, the last.
        with_cls_token (bool): Whether a class token is kept. Default: True.
        num_registers (int, optional): Register tokens, 4 in DINOv2's files with registers. A file of a distilled DeiT
            fills the place of one with its distillation token. Default: None, 4 of DINOv3, else 0.
        layer_scale (float, optional): What layer scale starts from, above 0 for DINOv2's files; 0 for none. Default:
            None, 1e-5 of DINOv3, else 0.
        rotary_rescale (float): In training, rotary coordinates of a batch are multiplied by one random factor between
            1 / this and this, 2 in DINOv3's own training; 1 for none. Default: 1.
        window_size (int): Rows and columns of the windows, in tokens, that attention stays in; 0 for none. Default: 0.
        grouping (dict, optional): How tokens are grouped that attend to each other: ``type``, a name in
            :data:`mmsec.ops.grouping.GROUPINGS`, and its options. Class and register tokens attend to all tokens, and
            all tokens to them. Exclusive with ``window_size``. Default: None, all attend to all.
        num_clusters (int, optional): Clusters of a ``grouping``, which needs it. Default: None.
        global_blocks (Sequence[int], optional): Blocks in which all tokens attend to all, despite ``window_size`` or
            ``grouping``. Default: None, with windows four evenly spaced ones, with a grouping none.
        merging (dict, optional): How tokens merge: ``type``, a name in :data:`mmsec.ops.merging.MERGINGS`, and its
            options. Maps are rebuilt from the merged tokens. It has no weights, and so can be chosen for a trained
            model. With windows or a grouping it must leave a grid: Expedit, CubistMerge. Default: None or an empty
            dict, nothing merges.
        drop_path_rate (float): Drop path of the last block; it rises linearly from 0 over all blocks. Default: 0.1.
        out_type (str): What is returned of each block in ``out_indices``: 'map', or 'cls_token', a map of one token for
            a classifier, as published ones are. Default: 'map'.
        out_norm (bool): Whether each returned map passes a LayerNorm of its own. Each starts as the last norm of a
            published file. Default: True.
        frozen_stages (int): -1 freezes nothing, 0 patches and positions, i also the first i blocks. Default: -1.
        with_cp (bool): Whether to trade time for memory by activation checkpointing. Default: False.
        init_cfg (dict | list[dict], optional): ``dict(type='Pretrained', checkpoint=PATH)``, alone or in a list, loads
            strictly a file of timm, DeiT, MAE, DINOv2 or DINOv3, or one trained here; see
            :mod:`mmsec.models.checkpoints.vit`. Default: None, random weights.
        pretrained (str | Path, optional): A checkpoint as in ``init_cfg``, loaded at once, because in Python no host
            calls :meth:`init_weights`. Exclusive with ``init_cfg``. Default: None or False, random weights.

    Raises:
        ValueError: If an option has a value that cannot be used; the message names the option.
        TypeError: If an option is unknown.

    Source: An Image is Worth 16x16 Words (arXiv 2010.11929), section 3.1; sizes of DeiT (arXiv 2012.12877), table 1,
    and of DINOv3 (arXiv 2508.10104), public code (facebookresearch/dinov3). DINOv3 has nothing published on images
    whose sides are no multiple of a patch, on windows, clusters or merged tokens: that zeros fill up the last patches,
    that keys are compared for merging before they are rotated, and that a merged token lies where its sources lie on
    average, or of a smaller grid in its cell, are choices of ours.
    """

    published = vit.PUBLISHED
    arch_zoo = {
        'tiny': dict(embed_dims=192, depth=12, num_heads=3, mlp_ratio=4),
        'small': dict(embed_dims=384, depth=12, num_heads=6, mlp_ratio=4),
        'base': dict(embed_dims=768, depth=12, num_heads=12, mlp_ratio=4),
        'large': dict(embed_dims=1024, depth=24, num_heads=16, mlp_ratio=4),
        'dinov3-small': dict(embed_dims=384, depth=12, num_heads=6, mlp_ratio=4, **_DINOV3),
        'dinov3-small-plus': dict(embed_dims=384, depth=12, num_heads=6, mlp_ratio=4, swiglu=True, **_DINOV3),
        'dinov3-base': dict(embed_dims=768, depth=12, num_heads=12, mlp_ratio=4, **_DINOV3),
        'dinov3-large': dict(embed_dims=1024, depth=24, num_heads=16, mlp_ratio=4, **_DINOV3),
        'dinov3-large-plus': dict(embed_dims=1024, depth=24, num_heads=16, mlp_ratio=4, swiglu=True, **_DINOV3),
        'dinov3-huge-plus': dict(embed_dims=1280, depth=32, num_heads=20, mlp_ratio=4, swiglu=True, **_DINOV3),
        'dinov3-7b': dict(embed_dims=4096, depth=40, num_heads=32, mlp_ratio=2, swiglu=True, **_DINOV3),
    }

    def __init__(
        self,
        arch: str | dict,
        in_channels: int = 3,
        patch_size: int = 16,
        img_size: int | Sequence[int] = 224,
        out_indices: Sequence[int] | None = None,
        with_cls_token: bool = True,
        num_registers: int | None = None,
        layer_scale: float | None = None,
        rotary_rescale: float = 1.0,
        window_size: int = 0,
        grouping: dict | None = None,
        num_clusters: int | None = None,
        global_blocks: Sequence[int] | None = None,
        merging: dict | None = None,
        drop_path_rate: float = 0.1,
        out_type: str = 'map',
        out_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        pretrained: str | Path | bool | None = None,
    ) -> None:
        settings = self.settings(arch, (), _OPTIONAL)
        num_registers = settings['num_registers'] if num_registers is None else num_registers
        layer_scale = settings['layer_scale'] if layer_scale is None else layer_scale
        dims, depth, heads = settings['embed_dims'], settings['depth'], settings['num_heads']
        out_indices = (depth - 1,) if out_indices is None else out_indices
        super().__init__(in_channels, (patch_size,) * depth, out_indices, frozen_stages, False, init_cfg, pretrained)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if dims % heads:
            raise ValueError(f'embed_dims must be a multiple of num_heads, got {dims} and {heads}')
        for name, value, least in (
            ('patch_size', patch_size, 1),
            ('img_size', min(height, width), 1),
            ('num_registers', num_registers, 0),
            ('layer_scale', layer_scale, 0),
            ('rotary_rescale', rotary_rescale, 1),
            ('window_size', window_size, 0),
            ('num_clusters', 1 if num_clusters is None else num_clusters, 1),
        ):
            if value < least:
                raise ValueError(f'{name} must be at least {least}, got {value}')
        rotary_dims = dims // heads if settings['rotary'] else 0
        if rotary_dims % 4:
            raise ValueError(f'rotary positions need heads of a multiple of 4 channels, got {dims} / {heads}')
        if rotary_rescale != 1 and not rotary_dims:
            raise ValueError(f'rotary_rescale={rotary_rescale} needs rotary positions, as an arch of DINOv3 has')
        if out_type not in ('map', 'cls_token'):
            raise ValueError(f"out_type must be 'map' or 'cls_token', got {out_type!r}")
        if out_type == 'cls_token' and not with_cls_token:
            raise ValueError("out_type='cls_token' needs with_cls_token=True")
        rates = self.drop_path_rates(drop_path_rate, (1,) * depth)
        if window_size and grouping:
            raise ValueError(f'window_size and grouping exclude each other, got {window_size} and {grouping}')
        if bool(grouping) != (num_clusters is not None):
            raise ValueError(f'grouping and num_clusters need each other, got {grouping} and {num_clusters}')
        if global_blocks is not None and not (window_size or grouping):
            raise ValueError('global_blocks need window_size or grouping: without, all blocks are global')
        if global_blocks is None:
            global_blocks = [depth * quarter // 4 - 1 for quarter in range(1, 5)] if window_size else []
        elif not set(global_blocks) <= set(range(depth)):
            raise ValueError(f'global_blocks must be in [0, {depth - 1}], got {tuple(global_blocks)}')
        method = MERGINGS.build(merging) if merging else None
        if method:
            method.check_blocks(depth, max(out_indices) + 1)
        map_size = (-(-height // patch_size), -(-width // patch_size))
        if method and (window_size or grouping) and method.merged_grid(map_size) is None:
            raise ValueError(
                f'merging {type(method).__name__} leaves no grid for {"windows" if window_size else "a grouping"}: '
                f'set {"window_size=0" if window_size else "grouping=None"}, or merge by Expedit or CubistMerge'
            )

        def attention(block: int) -> Attention:
            if window_size and block not in global_blocks:
                return WindowAttention(dims, heads, window_size)
            if grouping and num_clusters and block not in global_blocks:
                return Attention(dims, heads, grouping, block, ClusterCount(num_clusters))
            return Attention(dims, heads)

        self.out_type = out_type
        self.with_cp = with_cp
        self.patch_embed = PatchEmbed(
            in_channels, dims, patch_size, map_size, with_cls_token, num_registers, rotary_dims, rotary_rescale
        )
        mlp = SwiGLU if settings['swiglu'] else MLP
        self.blocks = nn.ModuleList(
            Block(
                dims,
                attention(i),
                mlp(dims, int(dims * settings['mlp_ratio'])),
                rates[i][0],
                layer_scale,
                Merge(method, i, depth) if method else None,
                settings['norm_eps'],
            )
            for i in range(max(out_indices) + 1)
        )
        self._init_parameters()
        self.finish((dims,) * depth, out_norm, settings['norm_eps'])

    def _init_parameters(self) -> None:
        """Weights, tokens and positions truncated normal with std 0.02, biases 0."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith('.bias'):
                nn.init.zeros_(parameter)

    def parts(self) -> list[list[nn.Module]]:
        """Patches and positions; then each block."""
        return [[self.patch_embed], *([block] for block in self.blocks)]

    def convert(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Name published weights as they are named here; see :mod:`mmsec.models.checkpoints.vit`."""
        return vit.convert(state, self.state_dict(), self.blocks[0].num_heads)  # type: ignore[arg-type]  # an int

    def maps(self, x: Tensor) -> dict[int, Tensor]:
        """The map of each block in ``out_indices``, (B, C, H', W'), or its class token, (B, C, 1, 1)."""
        returned = {i: tokens for i, tokens in enumerate(self.tokens(x)) if i in self.out_indices}
        if self.out_type == 'cls_token':
            return {i: tokens.x[:, 0, :, None, None] for i, tokens in returned.items()}
        return {i: tokens.map() for i, tokens in returned.items()}

    def tokens(self, x: Tensor) -> Iterator[TokenList]:
        """The tokens behind each block, one after the other.

        Args:
            x (Tensor): (B, in_channels, H, W) images.

        Yields:
            TokenList: With all mergings so far.
        """
        tokens = self.patch_embed(x)
        for block in self.blocks:
            tokens = forward_block(block, tokens, with_cp=self.with_cp)
            yield tokens

    @torch.no_grad()
    def mergings(self, x: Tensor) -> list[Merging | None]:
        """What has merged in each block, for a look; call it in evaluation mode.

        Args:
            x (Tensor): (B, in_channels, H, W) images.

        Returns:
            list[Merging | None]: To each block the merging of all tokens, protected ones first, that came of it and
            the blocks before, or for a method that merges around the attention, of it alone; None if nothing merged.
        """
        before, found = self.patch_embed(x), []
        for block, behind in zip(self.blocks, self.tokens(x), strict=True):
            around = block.merging_around(before)  # type: ignore[operator]  # a Block
            found.append(around or behind.merging)
            before = behind
        return found
