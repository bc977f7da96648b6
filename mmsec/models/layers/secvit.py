"""The parts SecViT is made of.

Maps travel between layers as NCHW tensors in channels-last memory, so that the NHWC view the linear layers and
norms work on costs nothing.
"""

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmsec import ops
from mmsec.models.inspection import TokenClusters, grouped_clusters
from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.models.layers.maps import Conv2d, DepthwiseConv, LayerScale, Linear, hooked
from mmsec.ops import Tokens, build_grouping


class Stem(nn.Module):
    """Four 3x3 convolutions with BatchNorm that bring an image to stride 4.

    Args:
        in_channels (int): Channels of the image.
        embed_dims (int): Channels of the output.
        norm_cfg (dict): Norm after each convolution.
    """

    def __init__(self, in_channels: int, embed_dims: int, norm_cfg: dict) -> None:
        super().__init__()
        hidden = embed_dims // 2
        channels = [in_channels, hidden, hidden, hidden, embed_dims]
        layers: list[nn.Module] = []
        for i, stride in enumerate((2, 1, 1, 2)):
            layers += [
                Conv2d(channels[i], channels[i + 1], 3, stride, padding=1),
                build_norm_layer(norm_cfg, channels[i + 1])[1],
            ]
            if i < 3:
                layers.append(nn.GELU())
        self.proj = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, embed_dims, ceil(H/4), ceil(W/4))."""
        return self.proj(x)


class PatchMerging(nn.Module):
    """Halve a map with a strided 3x3 convolution and a norm.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        norm_cfg (dict): The norm.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.reduction = Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = build_norm_layer(norm_cfg, out_channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H/2), ceil(W/2))."""
        return self.norm(self.reduction(x))


class ClusterAttention(nn.Module):
    """Attention inside clusters of tokens, with a depthwise position term (LePE) of the values.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Heads h; C / h must be a multiple of 4.
        grouping (dict): How tokens are grouped, for :func:`mmsec.ops.build_grouping`.
        block (int): Place of the block in its stage, from 0.
        count (ClusterCount): Clusters; one is global attention.
    """

    def __init__(self, embed_dims: int, num_heads: int, grouping: dict, block: int, count: ClusterCount) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(embed_dims, 3 * embed_dims)
        self.lepe = DepthwiseConv(embed_dims, 5)
        self.out_proj = Linear(embed_dims, embed_dims)
        self.grouping = build_grouping(grouping, block)
        self.count = count

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """Attend inside clusters.

        Args:
            x (Tensor): (B, H, W, C), normalised.
            rotary (Tensor): (H*W, d/2, 2) from :func:`mmsec.ops.rotary_table`.

        Returns:
            Tensor: (B, H, W, C).
        """
        tokens = self.tokens(x, rotary)
        num_clusters = self.count.of(x.shape[1] * x.shape[2])
        grouping = self.grouping(tokens, num_clusters) if num_clusters > 1 else None
        out = ops.cluster_attention(tokens.query, tokens.key, tokens.value, grouping)  # (B, N, h, d)
        values, out = (t.flatten(2).view_as(x) for t in (tokens.value, out))
        return self.out_proj(self.lepe(values, plus=out))

    def tokens(self, x: Tensor, rotary: Tensor) -> Tokens:
        """What attention and grouping work on.

        Args:
            x (Tensor): (B, H, W, C), normalised.
            rotary (Tensor): (H*W, d/2, 2) from :func:`mmsec.ops.rotary_table`.

        Returns:
            Tokens: Queries and keys rotated.
        """
        if type(self.qkv) is Linear and not hooked(self.qkv):
            parts = ops.linear_chunks(x, self.qkv.weight, self.qkv.bias, 3)  # (B, H, W, C) each
        else:  # something took its place, such as a low-rank adapter, or looks at it
            parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v, x_heads = (t.flatten(1, 2).unflatten(-1, (self.num_heads, -1)) for t in (*parts, x))  # (B, N, h, d)
        v = v.contiguous()  # once, where all parts are of one product; the position term and the clusters want it
        return Tokens(ops.apply_rotary(q, rotary), ops.apply_rotary(k, rotary), v, x_heads, (x.shape[1], x.shape[2]))

    def clusters(self, x: Tensor, rotary: Tensor) -> TokenClusters:
        """Which tokens attend to each other; arguments as :meth:`forward`."""
        return grouped_clusters(self.grouping, self.tokens(x, rotary), self.count.of(x.shape[1] * x.shape[2]))


class FFN(nn.Module):
    """Feed-forward network with a residual depthwise convolution between its linear layers.

    Args:
        embed_dims (int): Channels C.
        hidden_dims (int): Channels between the linear layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_dims)
        self.dwconv = DepthwiseConv(hidden_dims, 3)
        self.fc2 = Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.fc1(x)
        if type(self.dwconv) is DepthwiseConv and not hooked(self.dwconv):
            x = ops.gelu_and_mix(x, self.dwconv.weight, self.dwconv.bias, not hooked(self.fc1))
        else:  # as ClusterAttention.tokens
            x = F.gelu(x)
            x = self.dwconv(x, plus=x)
        return self.fc2(x)


class Block(nn.Module):
    """Depthwise position encoding, cluster attention and FFN, each with a residual.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Attention heads.
        mlp_ratio (float): Hidden channels of the FFN over C.
        drop_path (float): Probability of dropping the attention and the FFN branch.
        layer_scale (bool): Whether both branches end in a :class:`LayerScale`.
        grouping (dict): How tokens are grouped.
        block (int): Place of the block in its stage, from 0.
        count (ClusterCount): Clusters.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float,
        layer_scale: bool,
        grouping: dict,
        block: int,
        count: ClusterCount,
    ) -> None:
        super().__init__()
        self.pos = DepthwiseConv(embed_dims, 3)
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = ClusterAttention(embed_dims, num_heads, grouping, block, count)
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.ffn = FFN(embed_dims, int(embed_dims * mlp_ratio))
        self.scale1 = LayerScale(embed_dims) if layer_scale else nn.Identity()
        self.scale2 = LayerScale(embed_dims) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); see :meth:`ClusterAttention.forward`."""
        x = self.pos(x, plus=x)
        attn, ffn = self.attn, self.ffn
        # A branch ends in modules that may hand on the memory they were given.
        mine = not hooked(attn, attn.out_proj, self.scale1, self.drop_path)
        x = ops.add(x, self.drop_path(self.scale1(attn(self.norm1(x), rotary))), mine)
        mine = not hooked(ffn, ffn.fc2, self.scale2, self.drop_path)
        return ops.add(x, self.drop_path(self.scale2(ffn(self.norm2(x)))), mine)
