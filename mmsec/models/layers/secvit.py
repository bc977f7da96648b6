"""The parts SecViT is made of. Inside a stage maps are (B, H, W, C), between stages (B, C, H, W)."""

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmsec import ops
from mmsec.models.layers.cluster_attention import ClusterAttention
from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.models.layers.maps import LayerScale
from mmsec.ops import Grouping, Tokens


class Stem(nn.Module):
    """Four 3x3 convolutions, each with a norm, that bring an image to stride 4."""

    def __init__(self, in_channels: int, embed_dims: int, norm_cfg: dict) -> None:
        super().__init__()
        hidden = embed_dims // 2
        channels = [in_channels, hidden, hidden, hidden, embed_dims]
        layers: list[nn.Module] = []
        for i, stride in enumerate((2, 1, 1, 2)):
            layers += [
                nn.Conv2d(channels[i], channels[i + 1], 3, stride, padding=1),
                build_norm_layer(norm_cfg, channels[i + 1])[1],
            ]
            if i < 3:
                layers.append(nn.GELU())
        self.proj = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, embed_dims, ceil(H/4), ceil(W/4))."""
        return ops.call(self.proj, x)


class PatchMerging(nn.Module):
    """A strided 3x3 convolution and a norm, which halve a map."""

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = build_norm_layer(norm_cfg, out_channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H/2), ceil(W/2))."""
        return self.norm(ops.call(self.reduction, x))


class Carriers(nn.Module):
    """Adds to the attention inside clusters what tokens read of all clusters' carriers, times a gate of each head.

    Gates start at 0, where nothing is added. ``carriers`` is the number for each cluster.
    """

    def __init__(self, num_heads: int, carriers: int) -> None:
        super().__init__()
        self.carriers = carriers
        self.gate = nn.Parameter(torch.zeros(num_heads))
        self.gamma = nn.Parameter(torch.zeros(num_heads))

    def forward(self, out: Tensor, tokens: Tokens, grouping: Grouping | None) -> Tensor:
        """(B, H, W, C) -> the same; see :func:`mmsec.ops.carrier_attention`."""
        read = ops.carrier_attention(tokens.qkv, grouping, self.carriers, self.gamma)  # (B, N, h, d)
        return out + (self.gate.to(read.dtype)[:, None] * read).reshape(out.shape)


class LePEAttention(ClusterAttention):
    """Attention inside clusters of tokens, with a depthwise position term (LePE) of the values.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Heads h; C / h must be a multiple of 4.
        grouping, block, count: See :class:`ClusterAttention`.
        carriers (int): Carriers of each cluster; 0, or one cluster of every map, for none. Default: 0.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2; LePE of CSWin (arXiv 2107.00652).
    """

    def __init__(
        self, embed_dims: int, num_heads: int, grouping: dict, block: int, count: ClusterCount, carriers: int = 0
    ) -> None:
        super().__init__(num_heads, grouping, block, count)
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.lepe = nn.Conv2d(embed_dims, embed_dims, 5, padding=2, groups=embed_dims)
        self.carriers = Carriers(num_heads, carriers) if carriers and not count.is_global else None
        self.out_proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """Attend inside clusters.

        Args:
            x (Tensor): (B, H, W, C), normalised.
            rotary (Tensor): (H*W, d/2, 2) from :func:`mmsec.ops.rotary_table`.

        Returns:
            Tensor: (B, H, W, C).
        """
        tokens = self.tokens(x, rotary)
        grouping = self.group(tokens)
        out = ops.lepe_attention(tokens, grouping, self.lepe)
        return self.out_proj(self.carriers(out, tokens, grouping) if self.carriers else out)

    def tokens(self, x: Tensor, rotary: Tensor) -> Tokens:  # type: ignore[override]  # the inputs of forward
        """What attention and grouping work on."""
        return super().tokens(x.flatten(1, 2), (x.shape[1], x.shape[2]), rotary)


class FFN(nn.Module):
    """Feed-forward network with a residual depthwise convolution between its linear layers."""

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.dwconv = nn.Conv2d(hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.fc2(ops.gelu_conv_residual(self.fc1(x), self.dwconv))


class Block(nn.Module):
    """Depthwise position encoding, attention in clusters and FFN, each with a residual.

    ``drop_path`` is the probability of dropping a branch, ``block`` the index in the stage, from 0.
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
        carriers: int = 0,
    ) -> None:
        super().__init__()
        self.pos = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = LePEAttention(embed_dims, num_heads, grouping, block, count, carriers)
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.ffn = FFN(embed_dims, int(embed_dims * mlp_ratio))
        self.scale1 = LayerScale(embed_dims) if layer_scale else nn.Identity()
        self.scale2 = LayerScale(embed_dims) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); see :meth:`LePEAttention.forward`."""
        x, y = ops.conv_residual_norm(x, self.pos, self.norm1)  # x + pos(x), norm1 of it
        x, y = ops.residual_norm(x, self.attn(y, rotary), self.scale1, self.drop_path, self.norm2)
        return ops.residual(x, self.ffn(y), self.scale2, self.drop_path)
