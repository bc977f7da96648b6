"""The parts ClusTR is made of. Maps travel between layers as (B, H, W, C) tensors."""

from typing import ClassVar

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmsec.errors import InputError
from mmsec.models.layers.cluster_attention import TokenClusters
from mmsec.ops import cluster_attention
from mmsec.ops.merging import Merging
from mmsec.ops.merging.density_peaks import density_peak_merging
from mmsec.ops.merging.sizes import at_least, at_most


class PatchEmbed(nn.Module):
    """Overlapping patches: a strided convolution of odd kernel size, and a norm."""

    def __init__(self, in_channels: int, embed_dims: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(embed_dims, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, ceil(H/stride), ceil(W/stride), C)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class ClusteredAttention(nn.Module):
    """Attention of all tokens to few: cluster tokens of two scales.

    N tokens are merged around the peaks of their density into ``n = N // reduction**2`` and into 4n. They count in
    their cluster token by a learned weight. Attention to both scales is added up. Maps of fewer than ``reduction**2``
    tokens have one cluster on the coarse scale, and no scale has more clusters than tokens.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Heads h; a divisor of C.
        reduction (int): Side of the square of tokens that a coarse cluster stands for on average.
        region_size (int, optional): Most tokens that are clustered together, see
            :func:`mmsec.ops.merging.density_peaks.density_peak_merging`; None for the whole map, which is what was
            published.

    Raises:
        InputError: If regions would be too small for their clusters.

    Source: ClusTR (arXiv 2208.13138), section 3.
    """

    scales: ClassVar[tuple[str, ...]] = ('coarse scale', 'fine scale')

    def __init__(self, embed_dims: int, num_heads: int, reduction: int, region_size: int | None = None) -> None:
        super().__init__()
        if region_size is not None and region_size < 4 * reduction**2:
            raise InputError(
                f'region_size={region_size} is too small for clusters of {reduction**2} tokens: '
                f'give at least {4 * reduction**2}, or None to cluster whole maps'
            )
        self.num_heads = num_heads
        self.reduction = reduction
        self.region_size = region_size
        self.q = nn.Linear(embed_dims, embed_dims)
        self.weight_layer = nn.Linear(embed_dims, 1)
        self.kv1 = nn.Linear(embed_dims, 2 * embed_dims)
        self.kv2 = nn.Linear(embed_dims, 2 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C), normalised -> (B, H, W, C)."""
        coarse, fine = self.cluster_tokens(x)  # (B, n, C) and (B, 4n, C)
        q = self.q(x).flatten(1, 2).unflatten(-1, (self.num_heads, -1))  # (B, N, h, d)
        k1, v1 = self.kv1(coarse).unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # (B, n, h, d) each
        k2, v2 = self.kv2(fine).unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # (B, 4n, h, d) each
        out = cluster_attention(q, k1, v1, None) + cluster_attention(q, k2, v2, None)  # (B, N, h, d)
        return self.proj(out.flatten(2).view_as(x))

    def mergings(self, x: Tensor) -> tuple[Merging, Merging]:
        """The clusters of the coarse and of the fine scale, of a normalised map (B, H, W, C)."""
        num_tokens = x.shape[1] * x.shape[2]
        coarse = at_least(num_tokens // self.reduction**2, 1)
        of_coarse, of_fine = density_peak_merging(x, (coarse, at_most(4 * coarse, num_tokens)), self.region_size)
        return of_coarse, of_fine

    def clusters(self, x: Tensor) -> TokenClusters:
        """Which tokens are merged on either scale; argument as :meth:`forward`."""
        ids = torch.stack([merging.assignment for merging in self.mergings(x)], dim=1)  # (B, 2, N)
        return TokenClusters(ids.unflatten(-1, x.shape[1:3]))

    def cluster_tokens(self, x: Tensor) -> list[Tensor]:
        """(B, H, W, C), normalised -> (B, n, C) and (B, 4n, C), weighted means of the tokens of each cluster."""
        mergings = self.mergings(x)
        x = x.flatten(1, 2)  # (B, N, C)
        weight = self.weight_layer(x)  # (B, N, 1)
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32)).exp()  # may not fit a half type
        weighted = torch.cat([weight * x, weight], dim=-1)  # (B, N, C+1)
        tokens = []
        for merging in mergings:
            total, total_weight = merging.sum(weighted).split([x.shape[-1], 1], dim=-1)
            tokens.append((total / (total_weight + 1e-6)).to(x.dtype))
        return tokens


class GlobalAttention(nn.Module):
    """Attention of all tokens to all."""

    scales: ClassVar[tuple[str, ...]] = ('all tokens',)

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(embed_dims, embed_dims)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C), normalised -> (B, H, W, C)."""
        q = self.q(x).flatten(1, 2).unflatten(-1, (self.num_heads, -1))  # (B, N, h, d)
        k, v = self.kv(x).flatten(1, 2).unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # (B, N, h, d) each
        return self.proj(cluster_attention(q, k, v, None).flatten(2).view_as(x))

    def clusters(self, x: Tensor) -> TokenClusters:
        """One cluster of all tokens; argument as :meth:`forward`."""
        return TokenClusters.single(x, x.shape[1:3])


class MLP(nn.Module):
    """Two linear layers, and between them a residual depthwise convolution, which knows where tokens are."""

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.dwconv = nn.Conv2d(hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.fc1(x)
        x = x + self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(self.act(x))


class Block(nn.Module):
    """Attention and MLP, each with a norm before it and a residual around it; a reduction of 1 is global attention."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float,
        reduction: int,
        region_size: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn: nn.Module
        if reduction == 1:
            self.attn = GlobalAttention(embed_dims, num_heads)
        else:
            self.attn = ClusteredAttention(embed_dims, num_heads, reduction, region_size)
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = MLP(embed_dims, int(embed_dims * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
