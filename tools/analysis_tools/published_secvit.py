"""SecViT step by step, as the published code computes it: what benchmarks compare with.

Maps are NCHW; every attention matrix is materialised; tokens are sorted twice (once for the order, once for its
inverse) and moved by expanded gathers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsec.models import SecViT
from mmsec.models.layers.maps import LayerScale
from mmsec.models.layers.secvit import Block
from mmsec.ops import cluster_sizes

_MAP = (0, 3, 1, 2)  # NHWC -> NCHW


def published_forward(backbone: SecViT, x: Tensor) -> tuple[Tensor, ...]:
    """Compute what ``backbone(x)`` computes, with its weights, step by step.

    Drop path is not applied: in training mode the two agree where ``drop_path_rate`` is 0.

    Args:
        backbone (SecViT): Where weights and options come from.
        x (Tensor): (B, in_channels, H, W) images.

    Returns:
        tuple[Tensor, ...]: As :meth:`SecViT.forward`.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3; steps of the public code (qhfan/SecViT).
    """
    for layer in backbone.patch_embed.proj:
        x = _convolution(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
    maps = {}
    for i, stage in enumerate(backbone.stages):
        if i:
            merging = backbone.downsamples[i - 1]
            x = merging.norm(_convolution(merging.reduction, x))
        height, width = x.shape[2:]
        sin, cos = _rotary(height, width, stage.head_dim, x)
        for j, block in enumerate(stage.blocks):
            x = _block(block, x, sin, cos, stage.clusters_for(height * width, j))
        if i in backbone.out_indices:
            norm = backbone.out_norms[str(i)] if str(i) in backbone.out_norms else nn.Identity()
            maps[i] = norm(x.permute(0, 2, 3, 1)).permute(_MAP).contiguous()
    return tuple(maps[i] for i in backbone.out_indices)


def published_order(k: Tensor) -> Tensor:
    """Tokens in ascending order of the cosine of their key with the mean key.

    Args:
        k (Tensor): (B, N, h, d) rotated keys.

    Returns:
        Tensor: (B, h, N) int64.
    """
    with torch.no_grad():
        keys = k.transpose(1, 2).to(torch.promote_types(k.dtype, torch.float32))
        center = keys.mean(2, keepdim=True)  # (B, h, 1, d)
        return F.cosine_similarity(center, keys, dim=-1).argsort(dim=-1, stable=True)


def published_attention(q: Tensor, k: Tensor, v: Tensor, order: Tensor | None, num_clusters: int) -> Tensor:
    """Attention inside clusters, step by step.

    Args:
        q (Tensor): (B, N, h, d) queries in raster order.
        k (Tensor): (B, N, h, d) keys.
        v (Tensor): (B, N, h, d) values.
        order (Tensor, optional): (B, h, N) tokens in sorted order; None for attention over all tokens.
        num_clusters (int): Clusters M that the order is cut into.

    Returns:
        Tensor: (B, N, h, d) in raster order.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, h, N, d)
    k = k * q.shape[-1] ** -0.5
    if order is None:
        return ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2)
    inverse = order.argsort(dim=-1)
    q, k, v = (x.gather(2, order[..., None].expand_as(x)) for x in (q, k, v))
    num_long, num_short, length = cluster_sizes(q.shape[2], num_clusters)
    split = num_long * (length + 1)
    parts = []
    for places, count in ((slice(0, split), num_long), (slice(split, None), num_short)):
        if count:
            qs, ks, vs = (x[:, :, places].unflatten(2, (count, -1)) for x in (q, k, v))  # (B, h, count, L, d)
            weights = (qs @ ks.transpose(-1, -2)).softmax(-1)  # (B, h, count, L, L)
            parts.append((weights @ vs).flatten(2, 3))
    out = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]  # (B, h, N, d)
    return out.gather(2, inverse[..., None].expand_as(out)).transpose(1, 2)


def _rotary(height: int, width: int, head_dim: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sines and cosines, (N, d) each, every angle twice."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    angle = 1.0 / 10000 ** torch.linspace(0, 1, head_dim // 4, device=x.device)
    angle = angle.repeat_interleave(2).to(dtype)  # (d/2,)
    rows = torch.arange(height, device=x.device)[:, None] * angle  # (H, d/2)
    columns = torch.arange(width, device=x.device)[:, None] * angle  # (W, d/2)
    rows, columns = rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # (N, d)
    return angles.sin().to(x.dtype), angles.cos().to(x.dtype)


def _rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """(..., N, d): interleaved pairs (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin)."""
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


def _conv1x1(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer over the channels of an NCHW map."""
    return F.conv2d(x, layer.weight[..., None, None], layer.bias)


def _convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution of an NCHW map, whatever the layer's own way is."""
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, 1, layer.groups)


def _layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm over the channels of an NCHW map."""
    return layer(x.permute(0, 2, 3, 1).contiguous()).permute(_MAP).contiguous()


def _scale(layer: nn.Module, x: Tensor) -> Tensor:
    """Layer scale of an NCHW map, where the block has it."""
    return x * layer.gamma[:, None, None] if isinstance(layer, LayerScale) else x


def _block(block: Block, x: Tensor, sin: Tensor, cos: Tensor, num_clusters: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W)."""
    x = x + _convolution(block.pos, x)
    x = x + _scale(block.scale1, _attention(block.attn, _layer_norm(block.norm1, x), sin, cos, num_clusters))
    hidden = F.gelu(_conv1x1(block.ffn.fc1, _layer_norm(block.norm2, x)))
    hidden = hidden + _convolution(block.ffn.dwconv, hidden)
    return x + _scale(block.scale2, _conv1x1(block.ffn.fc2, hidden))


def _attention(layer: nn.Module, x: Tensor, sin: Tensor, cos: Tensor, num_clusters: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W)."""
    height, width = x.shape[2:]
    q, k, v = _conv1x1(layer.qkv, x).chunk(3, dim=1)
    lepe = _convolution(layer.lepe, v)
    q, k, v = (t.unflatten(1, (layer.num_heads, -1)).flatten(3).transpose(2, 3) for t in (q, k, v))  # (B, h, N, d)
    q, k = _rotate(q, sin, cos), _rotate(k, sin, cos)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, N, h, d)
    order = published_order(k) if num_clusters > 1 else None
    out = published_attention(q, k, v, order, num_clusters)  # (B, N, h, d)
    out = out.flatten(2).transpose(1, 2).unflatten(2, (height, width))  # (B, C, H, W)
    return _conv1x1(layer.out_proj, out + lepe)
