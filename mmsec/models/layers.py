"""The parts SecViT is made of.

Maps travel between layers as NCHW tensors in channels-last memory, so that the NHWC view the linear layers and
norms work on costs nothing.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmsec.ops import apply_rotary, cluster_attention, conv2d_nhwc, semantic_grouping


class Conv2d(nn.Conv2d):
    """Convolution of a square kernel whose result is in channels-last memory."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        x = x.permute(0, 2, 3, 1)
        return conv2d_nhwc(x, self.weight, self.bias, self.stride[0], self.padding[0], self.groups).permute(0, 3, 1, 2)


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


def add(fresh: Tensor, x: Tensor) -> Tensor:
    """``fresh + x``, in the memory of ``fresh`` where that is allowed and gains something.

    Args:
        fresh (Tensor): What a layer just returned and nobody else reads.
        x (Tensor): Same shape; under autocast it may be the wider of the two, and then the sum is as wide.

    Returns:
        Tensor: The sum.
    """
    # Linear layers return views, and autograd copies a view before it lets it be overwritten.
    return fresh + x if fresh.requires_grad or fresh.dtype != x.dtype else fresh.add_(x)


class DepthwiseConv(nn.Conv2d):
    """Same-size depthwise convolution whose result is added to a map; NHWC in and out, channels-last memory."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor, plus: Tensor) -> Tensor:
        """``plus`` + the convolution of ``x``; (B, H, W, C) each."""
        return conv2d_nhwc(x, self.weight, self.bias, 1, self.padding[0], self.groups, plus)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer over the channels of an NHWC map.

    On a CPU it runs as a 1x1 convolution, compiled or not, because PyTorch hands convolutions to oneDNN and float32
    products to MKL, which leaves half of the speed of an AMD processor unused (docs/performance.md).

    Args:
        x (Tensor): (B, H, W, C).
        weight (Tensor): (C', C).
        bias (Tensor): (C',).

    Returns:
        Tensor: (B, H, W, C').
    """
    if x.device.type != 'cpu':
        return F.linear(x, weight, bias)
    return conv2d_nhwc(x, weight[..., None, None], bias, 1, 0, 1)


class Linear(nn.Linear):
    """:func:`linear` with parameters of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C')."""
        return linear(x, self.weight, self.bias)


class ClusterAttention(nn.Module):
    """Attention inside semantic clusters, with a depthwise position term (LePE) of the values.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Heads h; C / h must be a multiple of 4.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(embed_dims, 3 * embed_dims)
        self.lepe = DepthwiseConv(embed_dims, 5)
        self.out_proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, rotary: Tensor, num_clusters: int) -> Tensor:
        """Attend inside clusters.

        Args:
            x (Tensor): (B, H, W, C), normalised.
            rotary (Tensor): (H*W, d/2, 2) from :func:`mmsec.ops.rotary_table`.
            num_clusters (int): Clusters M, 1 <= M <= H*W; 1 is global attention.

        Returns:
            Tensor: (B, H, W, C).
        """
        q, k = self.queries_and_keys(x, rotary)  # (B, N, h, d) each
        # The values have a product of their own, because LePE wants them contiguous.
        values = linear(x, *(p[2 * x.shape[-1] :] for p in (self.qkv.weight, self.qkv.bias)))  # (B, H, W, C)
        v = self._split_heads(values)
        grouping = semantic_grouping(k, num_clusters) if num_clusters > 1 else None
        out = cluster_attention(q, k, v, grouping)  # (B, N, h, d)
        return self.out_proj(self.lepe(values, plus=out.flatten(2).view_as(values)))

    def queries_and_keys(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor]:
        """What decides who attends to whom.

        Args:
            x (Tensor): (B, H, W, C), normalised.
            rotary (Tensor): (H*W, d/2, 2) from :func:`mmsec.ops.rotary_table`.

        Returns:
            tuple[Tensor, Tensor]: (B, N, h, d) queries and keys, rotated.
        """
        pair = linear(x, *(p[: 2 * x.shape[-1]] for p in (self.qkv.weight, self.qkv.bias))).chunk(2, dim=-1)
        q, k = (apply_rotary(self._split_heads(t), rotary) for t in pair)
        return q, k

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, N, h, d)."""
        return x.flatten(1, 2).unflatten(-1, (self.num_heads, -1))


class FFN(nn.Module):
    """Feed-forward network with a residual depthwise convolution between its linear layers.

    Args:
        embed_dims (int): Channels C.
        hidden_dims (int): Channels between the linear layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_dims)
        self.act = nn.GELU()
        self.dwconv = DepthwiseConv(hidden_dims, 3)
        self.fc2 = Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.fc1(x)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # The backward computes GELU again instead of keeping its result, a seventh of what a block would keep.
            x = checkpoint(self._act_and_mix, x, use_reentrant=False, preserve_rng_state=False)
        else:
            x = self._act_and_mix(x)
        return self.fc2(x)

    def _act_and_mix(self, x: Tensor) -> Tensor:
        # The widest map of a block: without a gradient nobody else reads it, and its memory is used again.
        x = self.act(x) if x.requires_grad or torch.compiler.is_compiling() else torch.ops.aten.gelu_(x)
        return self.dwconv(x, plus=x)


class LayerScale(nn.Module):
    """Learned factor per channel.

    Args:
        embed_dims (int): Channels.
        init_value (float): What every factor starts from. Default: 1e-6.
    """

    def __init__(self, embed_dims: int, init_value: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dims,), init_value))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return x * self.gamma


class Block(nn.Module):
    """Depthwise position encoding, cluster attention and FFN, each with a residual.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Attention heads.
        mlp_ratio (float): Hidden channels of the FFN over C.
        drop_path (float): Probability of dropping the attention and the FFN branch.
        layer_scale (bool): Whether both branches end in a :class:`LayerScale`.
    """

    def __init__(self, embed_dims: int, num_heads: int, mlp_ratio: float, drop_path: float, layer_scale: bool) -> None:
        super().__init__()
        self.pos = DepthwiseConv(embed_dims, 3)
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = ClusterAttention(embed_dims, num_heads)
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.ffn = FFN(embed_dims, int(embed_dims * mlp_ratio))
        self.scale1 = LayerScale(embed_dims) if layer_scale else nn.Identity()
        self.scale2 = LayerScale(embed_dims) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rotary: Tensor, num_clusters: int) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); see :meth:`ClusterAttention.forward`."""
        x = self.pos(x, plus=x)
        x = add(self.drop_path(self.scale1(self.attn(self.norm1(x), rotary, num_clusters))), x)
        return add(self.drop_path(self.scale2(self.ffn(self.norm2(x)))), x)
