"""The parts a plain ViT is made of. Tokens travel between blocks as a :class:`TokenList`."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmsec.models.layers.cluster_attention import ClusterAttention, TokenClusters
from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.models.layers.maps import LayerScale
from mmsec.models.layers.mlp import MLP, SwiGLU
from mmsec.models.layers.token_list import Merge, Places, TokenList
from mmsec.ops import (
    Grouping,
    Tokens,
    apply_rotary,
    proportional_attention,
    qkv_attention,
    resize_positions,
    rotary_periods,
)
from mmsec.ops.merging import Merging


class PatchEmbed(nn.Module):
    """An image -> tokens with positions.

    Positions are learned for a map of ``map_size`` and resized for others, or where heads have ``rotary_dims`` channels
    to rotate, rotary; in training their coordinates are then multiplied by one random factor of 1 / ``rescale`` to
    ``rescale``, as DINOv3's public code does.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        map_size: tuple[int, int],
        with_cls_token: bool,
        num_registers: int,
        rotary_dims: int = 0,
        rescale: float = 1.0,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.rotary_dims = rotary_dims
        self.rescale = rescale
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)
        self.pos_embed = None if rotary_dims else nn.Parameter(torch.zeros(1, embed_dims, *map_size))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims)) if with_cls_token else None
        self.register_tokens = nn.Parameter(torch.zeros(1, num_registers, embed_dims)) if num_registers else None

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """As every module, whatever loads it; positions of a map of another size are resized."""
        name = f'{prefix}pos_embed'
        given, own = state_dict.get(name), self.pos_embed
        if given is not None and own is not None and given.dim() == 4 and given.shape[:2] == own.shape[:2]:
            state_dict = {**state_dict, name: resize_positions(given, (own.shape[2], own.shape[3]))}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, image: Tensor) -> TokenList:
        """(B, in_channels, H, W) -> class token, register tokens, those of the patches; zeros fill up the last ones."""
        # The convolution leaves out what is less than a patch: so much padding is right for every size.
        x = self.proj(F.pad(image, (0, self.patch_size - 1, 0, self.patch_size - 1)))  # (B, C, H', W')
        map_size = (x.shape[2], x.shape[3])
        x = x if self.pos_embed is None else x + resize_positions(self.pos_embed, map_size)
        x = x.flatten(2).mT  # (B, H'*W', C)
        front = [each.expand(x.shape[0], -1, -1) for each in (self.cls_token, self.register_tokens) if each is not None]
        protected = sum(each.shape[1] for each in front)
        places = self.places(x, protected, map_size) if self.rotary_dims else None
        return TokenList(torch.cat([*front, x], dim=1), protected, map_size, grid=map_size, places=places)

    def places(self, x: Tensor, protected: int, map_size: tuple[int, int]) -> Places:
        """Where the tokens of a map are, for tokens like ``x``."""
        periods = rotary_periods(self.rotary_dims, x.dtype, x.device)
        if self.training and self.rescale > 1:  # shorter periods are larger coordinates
            most = math.log(self.rescale)
            periods = periods * torch.empty_like(periods[:1]).uniform_(-most, most).exp()
        return Places.of_grid(map_size, protected, periods)


class Attention(ClusterAttention):
    """Attention of all tokens to all, or inside clusters. Protected tokens attend to all, and all to them.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Heads h; a divisor of C.
        grouping, block, count: See :class:`ClusterAttention`. Default: all attend to all.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2; the class token's part is not published.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        grouping: dict | None = None,
        block: int = 0,
        count: ClusterCount = ClusterCount(1),  # noqa: B008  # a tuple
    ) -> None:
        super().__init__(num_heads, grouping, block, count)
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(
        self,
        x: Tensor,
        protected: int,
        grid: tuple[int, int] | None,
        sizes: Tensor | None = None,
        rotary: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x (Tensor): (B, P + T, C), normalised.
            protected (int): Protected tokens P at the front.
            grid (tuple[int, int], optional): Rows and columns of the T tokens; None if they have none, as groupings
                need.
            sizes (Tensor, optional): (B, P + T) how often each token counts as a key; None if each counts once.
            rotary (Tensor, optional): ([B,] P + T, d/2, 2) by which queries and keys are rotated.

        Returns:
            tuple[Tensor, Tensor]: (B, P + T, C), and the keys before the rotation, (B, P + T, h, d).
        """
        raw = self.project(x)
        qkv = _rotated(raw, rotary)
        if sizes is not None:
            q, k, v = qkv.unbind(2)
            out = proportional_attention(q, k, v, sizes)  # (B, P + T, h, d)
        else:
            grouping = self.group(self._tokens(x, qkv, protected, grid)) if self.grouping and grid else None
            out = qkv_attention(qkv, grouping, protected)
        return self.proj(out.flatten(2)), raw[:, :, 1]

    def tokens(  # type: ignore[override]  # the inputs of forward
        self, x: Tensor, protected: int, grid: tuple[int, int], rotary: Tensor | None = None
    ) -> Tokens:
        """What a grouping works on: the T tokens of the map."""
        return self._tokens(x, _rotated(self.project(x), rotary), protected, grid)

    def _tokens(self, x: Tensor, qkv: Tensor, protected: int, grid: tuple[int, int]) -> Tokens:
        heads = x.unflatten(-1, (self.num_heads, -1))  # (B, P + T, h, d)
        return Tokens(qkv[:, protected:], heads[:, protected:], grid)


def _rotated(qkv: Tensor, rotary: Tensor | None) -> Tensor:
    """(B, N, 3, h, d) with queries and keys rotated, if at all."""
    if rotary is None:
        return qkv
    turned = apply_rotary(qkv[:, :, :2].flatten(2, 3), rotary).unflatten(2, (2, -1))  # (B, N, 2, h, d)
    return torch.cat([turned, qkv[:, :, 2:]], dim=2)


class WindowAttention(Attention):
    """Attention inside square windows of the map. Protected tokens attend to all, and all to them.

    The map is filled up with zeros to whole windows, below and at the right. Like the published one, attention sees
    them: their keys and values are the biases, which are not rotated.

    Source: Exploring Plain Vision Transformer Backbones for Object Detection (arXiv 2203.16527), section 3.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int) -> None:
        super().__init__(embed_dims, num_heads)
        self.window_size = window_size

    def forward(
        self,
        x: Tensor,
        protected: int,
        grid: tuple[int, int] | None,
        sizes: Tensor | None = None,
        rotary: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend; see :meth:`Attention.forward`. Tokens have a grid, and each counts once."""
        assert grid is not None  # the backbone builds nothing else
        assert sizes is None
        rows, columns = (-(-side // self.window_size) for side in grid)
        padded = (rows * self.window_size, columns * self.window_size)
        raw = self.project(self._filled_up(x, protected, grid, padded))
        if rotary is not None:
            turns = zip(rotary[None].unbind(-1), (1.0, 0.0), strict=True)  # cosines and sines
            rotary = torch.stack([self._filled_up(each, protected, grid, padded, of)[0] for each, of in turns], dim=-1)
        qkv = _rotated(raw, rotary)
        windows = Grouping(self.order(rows, columns, x.device)[None, None], rows * columns)
        out, k = (
            torch.cat([y[:, :protected], _cut(y[:, protected:], padded, grid)], dim=1)
            for y in (qkv_attention(qkv, windows, protected), raw[:, :, 1])
        )
        return self.proj(out.flatten(2)), k

    def _filled_up(
        self, x: Tensor, protected: int, grid: tuple[int, int], padded: tuple[int, int], value: float = 0.0
    ) -> Tensor:
        """(B, P + T, C) with tokens of one value to the right of and below the grid, which is then ``padded``."""
        more = self.window_size - 1  # at least what is missing, whatever the size
        image = F.pad(x[:, protected:].unflatten(1, grid), (0, 0, 0, more, 0, more), value=value)
        return torch.cat([x[:, :protected], image[:, : padded[0], : padded[1]].flatten(1, 2)], dim=1)

    def order(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """(N,) int64; the raster indices of ``rows`` x ``columns`` windows, window after window."""
        side = self.window_size
        raster = torch.arange(rows * columns * side**2, device=device).view(rows, side, columns, side)
        return raster.transpose(1, 2).flatten()

    def clusters(self, x: Tensor, protected: int, grid: tuple[int, int], rotary: Tensor | None = None) -> TokenClusters:
        """Which tokens of the map attend to each other."""
        y, x_ = (torch.arange(side, device=x.device) // self.window_size for side in grid)
        ids = y[:, None] * (x_[-1] + 1) + x_
        return TokenClusters(ids.expand(len(x), 1, -1, -1))


def _cut(x: Tensor, padded: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The tokens of a grid (B, H*W, ...) from those of a larger one (B, H'*W', ...), at its top left."""
    return x.unflatten(1, padded)[:, : grid[0], : grid[1]].flatten(1, 2)


class Block(nn.Module):
    """Attention and MLP, each with a norm before it and a residual around it, and merging between or around them.

    ``drop_path`` is the probability of dropping a branch, ``layer_scale`` where its factors start, 0 for none.
    """

    def __init__(
        self,
        embed_dims: int,
        attention: Attention,
        mlp: MLP | SwiGLU,
        drop_path: float,
        layer_scale: float,
        merge: Merge | None,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.merge = merge
        self.place = merge.method.place if merge else None
        self.norm1 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.mlp = mlp
        self.scale1 = LayerScale(embed_dims, float(layer_scale)) if layer_scale else nn.Identity()
        self.scale2 = LayerScale(embed_dims, float(layer_scale)) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: TokenList) -> TokenList:
        """Tokens -> tokens, as many or fewer."""
        if self.merge and self.place == 'before_block':
            tokens = self.merge.apply(tokens.x, tokens)
        attended, keys = self.attend(tokens)
        tokens = tokens._replace(x=tokens.x + self.drop_path(self.scale1(attended)))
        if self.merge and self.place == 'after_attention':
            compared = keys.mean(dim=2) if self.merge.method.compares == 'keys' else tokens.x
            tokens = self.merge.apply(compared, tokens)
        tokens = tokens._replace(x=tokens.x + self.drop_path(self.scale2(self.mlp(self.norm2(tokens.x)))))
        return self.merge.apply(tokens.x, tokens) if self.merge and self.place == 'after_block' else tokens

    def attend(self, tokens: TokenList) -> tuple[Tensor, Tensor]:
        """The output of the attention, (B, P + T, C), and its keys."""
        x, places = self.norm1(tokens.x), tokens.places
        around = self.merging_around(tokens)
        if around is not None:
            table = places.merge(around, tokens.sizes).table if places else None
            attended, keys = self.attn(around.merge(x), tokens.protected, None, self.key_counts(around.sizes), table)
            return around.unmerge(attended), keys
        return self.attn(x, tokens.protected, tokens.grid, self.key_counts(tokens.sizes), tokens.rotary)

    def merging_around(self, tokens: TokenList) -> Merging | None:
        """What merges for the attention alone; None if nothing does."""
        return self.merge.find(tokens.x, tokens) if self.merge and self.place == 'around_attention' else None

    def key_counts(self, sizes: Tensor | None) -> Tensor | None:
        """How often a token counts as a key, if it is not once each."""
        if self.merge is None or sizes is None or self.merge.method.proportional_attention:
            return sizes
        return sizes.clamp_max(1) if self.merge.method.fills_up else None

    @property
    def num_heads(self) -> int:
        """Attention heads."""
        return self.attn.num_heads

    def clusters(self, tokens: TokenList) -> TokenClusters:
        """Which tokens of the whole map are one behind this block, or if none are, attend to each other in it."""
        merging = self._merged(tokens)
        if merging is None:
            assert tokens.grid is not None  # only merging takes it away
            return self.attn.clusters(self.norm1(tokens.x), tokens.protected, tokens.grid, tokens.rotary)
        together = [each.unique(return_inverse=True)[1] for each in merging.assignment[:, tokens.protected :]]
        return TokenClusters(torch.stack(together).unflatten(1, tokens.map_size)[:, None])

    def attended(self, token: int, tokens: TokenList) -> Tensor | None:
        """See :meth:`ClusterAttention.attended`; None where tokens have merged, which attend to merged ones."""
        if self._merged(tokens) is not None:
            return None
        assert tokens.grid is not None  # only merging takes it away
        return self.attn.attended(token, self.norm1(tokens.x), tokens.protected, tokens.grid, tokens.rotary)

    def _merged(self, tokens: TokenList) -> Merging | None:
        """What has merged behind this block, or for its attention alone."""
        return self.merging_around(tokens) or self(tokens).merging if self.merge else None
