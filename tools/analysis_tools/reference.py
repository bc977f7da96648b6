"""Reference implementations in plain torch: what benchmarks compare with, and what tests hold the backbones against.

SecViT is computed as the published code does it: maps are NCHW, every attention matrix is materialised, tokens are
sorted twice (once for the order, once for its inverse) and moved by expanded gathers. Tests take attention under a mask
instead, which moves no tokens.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsec.models import SecViT, ViT
from mmsec.ops import cluster_sizes

_MAP = (0, 3, 1, 2)  # NHWC -> NCHW
Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # (B, N, h, d) q, k, v and a number of clusters -> the same


def semantic_order(k: Tensor) -> Tensor:
    """Tokens (B, h, N) in ascending order of the cosine of their key with the mean key, of keys (B, N, h, d)."""
    with torch.no_grad():
        keys = k.transpose(1, 2).to(torch.promote_types(k.dtype, torch.float32))
        center = keys.mean(2, keepdim=True)  # (B, h, 1, d)
        return F.cosine_similarity(center, keys, dim=-1).argsort(dim=-1, stable=True)


def semantic_ids(k: Tensor, num_clusters: int) -> Tensor:
    """The cluster of each token, (B, h, N), of keys (B, N, h, d)."""
    order = semantic_order(k)
    length, long = divmod(k.shape[1], num_clusters)
    sizes = torch.tensor([length + 1] * long + [length] * (num_clusters - long))
    sorted_ids = torch.arange(num_clusters).repeat_interleave(sizes).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, sorted_ids)


def attention(q: Tensor, k: Tensor, v: Tensor, ids: Tensor | None) -> Tensor:
    """Attention of (B, N, h, d) tokens under a mask by the cluster of each, ids (B, h, N); None is all tokens.

    Tokens of a negative cluster attend to all and are seen by all.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, h, N, d)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if ids is not None:
        seen = (ids[..., None] == ids[..., None, :]) | (ids[..., None] < 0) | (ids[..., None, :] < 0)
        scores = scores.masked_fill(~seen, float('-inf'))
    return (scores.softmax(-1) @ v).transpose(1, 2)


def masked(q: Tensor, k: Tensor, v: Tensor, num_clusters: int) -> Tensor:
    """Attention inside semantic clusters under a mask; of and to (B, N, h, d)."""
    return attention(q, k, v, semantic_ids(k, num_clusters) if num_clusters > 1 else None)


def gathered(q: Tensor, k: Tensor, v: Tensor, num_clusters: int) -> Tensor:
    """The same as the published code does it: sorted tokens, a matrix for each cluster, and back."""
    order = semantic_order(k) if num_clusters > 1 else None
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, h, N, d)
    k = k * q.shape[-1] ** -0.5
    if order is None:
        return ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2)
    inverse = order.argsort(dim=-1)
    q, k, v = (x.gather(2, order[..., None].expand_as(x)) for x in (q, k, v))
    num_long, num_short, length = cluster_sizes(q.shape[2], num_clusters)
    split = num_long * (length + 1)
    parts = []
    for tokens, count in ((slice(0, split), num_long), (slice(split, None), num_short)):
        if count:
            qs, ks, vs = (x[:, :, tokens].unflatten(2, (count, -1)) for x in (q, k, v))  # (B, h, count, L, d)
            weights = (qs @ ks.transpose(-1, -2)).softmax(-1)  # (B, h, count, L, L)
            parts.append((weights @ vs).flatten(2, 3))
    out = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]  # (B, h, N, d)
    return out.gather(2, inverse[..., None].expand_as(out)).transpose(1, 2)


def forward(
    backbone: SecViT, x: Tensor, ids: Sequence[Tensor | None] | None = None, attend: Attend = masked
) -> tuple[Tensor, ...]:
    """Compute what ``backbone(x)`` computes, with its weights, step by step, without drop path.

    Clusters ``ids`` (B, h, N) of each block are semantic ones by default; ``attend`` is :func:`masked` or
    :func:`gathered`.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3; steps of the public code (qhfan/SecViT).
    """
    if ids is not None:
        given = iter(ids)
        attend = lambda q, k, v, num_clusters: attention(q, k, v, next(given))  # noqa: E731
    for layer in backbone.patch_embed.proj:
        x = _conv(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
    maps = {}
    for i, stage in enumerate(backbone.stages):
        if i:
            x = backbone.downsamples[i - 1].norm(_conv(backbone.downsamples[i - 1].reduction, x))
        height, width = x.shape[2:]
        rotary = _rotary(height, width, stage.head_dim, x)
        for j, block in enumerate(stage.blocks):
            num_clusters = stage.clusters_for(height * width, j)
            x = x + _conv(block.pos, x)
            x = x + _by_token(block.scale1, _attend(block.attn, _norm(block.norm1, x), rotary, num_clusters, attend))
            hidden = F.gelu(_linear(block.ffn.fc1, _norm(block.norm2, x)))
            x = x + _by_token(block.scale2, _linear(block.ffn.fc2, hidden + _conv(block.ffn.dwconv, hidden)))
        if i in backbone.out_indices:
            norm = backbone.out_norms[str(i)] if str(i) in backbone.out_norms else nn.Identity()
            maps[i] = _by_token(norm, x).contiguous()
    return tuple(maps[i] for i in backbone.out_indices)


def published_forward(backbone: SecViT, x: Tensor) -> tuple[Tensor, ...]:
    """As :func:`forward`, in all steps of the published code: the baseline of benchmarks."""
    return forward(backbone, x, attend=gathered)


def vit_forward(backbone: ViT, x: Tensor, num_clusters: int) -> tuple[Tensor, ...]:
    """What ``backbone(x)`` is, in semantic clusters of keys in every block, without drop path and output norms."""
    tokens = backbone.patch_embed(x)
    x, protected, maps = tokens.x, tokens.protected, {}
    for i, block in enumerate(backbone.blocks):
        qkv = F.linear(block.norm1(x), block.attn.qkv.weight, block.attn.qkv.bias)
        q, k, v = (each.unflatten(-1, (block.attn.num_heads, -1)) for each in qkv.chunk(3, -1))  # (B, P+N, h, d)
        ids = F.pad(semantic_ids(k[:, protected:], num_clusters), (protected, 0), value=-1)  # (B, h, P+N)
        x = x + block.scale1(block.attn.proj(attention(q, k, v, ids).flatten(2)))
        x = x + block.scale2(block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x)))))
        maps[i] = x[:, protected:].unflatten(1, tokens.map_size).permute(0, 3, 1, 2)
    return tuple(maps[i] for i in backbone.out_indices)


def _attend(layer: nn.Module, x: Tensor, rotary: tuple[Tensor, Tensor], num_clusters: int, attend: Attend) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W)."""
    q, k, v = _linear(layer.qkv, x).chunk(3, dim=1)
    lepe = _conv(layer.lepe, v)
    q, k, v = (t.unflatten(1, (layer.num_heads, -1)).flatten(3).transpose(2, 3) for t in (q, k, v))  # (B, h, N, d)
    q, k, v = (t.transpose(1, 2) for t in (_rotate(q, *rotary), _rotate(k, *rotary), v))  # (B, N, h, d)
    out = attend(q, k, v, num_clusters).flatten(2).transpose(1, 2).unflatten(2, x.shape[2:])  # (B, C, H, W)
    return _linear(layer.out_proj, out + lepe)


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


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer over the channels of an NCHW map."""
    return F.conv2d(x, layer.weight[..., None, None], layer.bias)


def _conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution, called as a function: the layer itself may run otherwise."""
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, 1, layer.groups)


def _norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm over the channels of an NCHW map."""
    return layer(x.permute(0, 2, 3, 1).contiguous()).permute(_MAP).contiguous()


def _by_token(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer over the channels of an NCHW map."""
    return layer(x.permute(0, 2, 3, 1)).permute(_MAP)
