"""The reference in tests: SecViT, and ViT in clusters, in plain torch with attention over all tokens under a mask."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsec.models import SecViT, ViT


def attention(q: Tensor, k: Tensor, v: Tensor, ids: Tensor | None) -> Tensor:
    """Attention of (B, N, h, d) tokens over those with the same id, (B, h, N); over all tokens where ids is None."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, h, N, d)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if ids is not None:
        scores = scores.masked_fill(ids[..., :, None] != ids[..., None, :], float('-inf'))
    return (scores.softmax(-1) @ v).transpose(1, 2)


def semantic_ids(k: Tensor, num_clusters: int) -> Tensor:
    """The cluster of each token, (B, h, N), of keys (B, N, h, d)."""
    k = k.detach().transpose(1, 2)  # (B, h, N, d)
    order = F.cosine_similarity(k, k.mean(2, keepdim=True), dim=-1).argsort(dim=-1, stable=True)
    length, long = divmod(k.shape[2], num_clusters)
    sizes = torch.tensor([length + 1] * long + [length] * (num_clusters - long))
    sorted_ids = torch.arange(num_clusters).repeat_interleave(sizes).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, sorted_ids)


def rotated(x: Tensor, height: int, width: int) -> Tensor:
    """The 2-D rotary embedding of (B, N, h, d) queries or keys, as complex numbers of length one."""
    frequencies = (1.0 / 10000 ** torch.linspace(0, 1, x.shape[-1] // 4)).to(x.dtype)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    angles = torch.cat([each.flatten()[:, None] * frequencies for each in (row, column)], dim=-1)  # (N, d/2)
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turns).flatten(-2)


def forward(backbone: SecViT, x: Tensor, ids: list[Tensor | None] | None = None) -> tuple[Tensor, ...]:
    """What ``backbone(x)`` is, without drop path.

    ``ids`` are the clusters of each block, (B, h, N), or None where all tokens attend to all; without, semantic ones.
    """
    given = iter(ids) if ids is not None else None
    for layer in backbone.patch_embed.proj:
        x = _conv(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
    maps = {}
    for i, stage in enumerate(backbone.stages):
        if i:
            x = backbone.downsamples[i - 1].norm(_conv(backbone.downsamples[i - 1].reduction, x))
        for j, block in enumerate(stage.blocks):
            x = x + _conv(block.pos, x)
            num_clusters = stage.clusters_for(x.shape[2] * x.shape[3], j)
            attended = _attend(block.attn, block.norm1(_nhwc(x)), num_clusters, *([next(given)] if given else []))
            x = x + _nchw(block.scale1(attended))
            hidden = F.gelu(_linear(block.ffn.fc1, block.norm2(_nhwc(x))))
            hidden = hidden + _nhwc(_conv(block.ffn.dwconv, _nchw(hidden)))
            x = x + _nchw(block.scale2(_linear(block.ffn.fc2, hidden)))
        norm = backbone.out_norms[str(i)] if str(i) in backbone.out_norms else nn.Identity()
        maps[i] = _nchw(norm(_nhwc(x)))
    return tuple(maps[i] for i in backbone.out_indices)


def vit_forward(backbone: ViT, x: Tensor, num_clusters: int) -> tuple[Tensor, ...]:
    """What ``backbone(x)`` is, in semantic clusters of keys in every block, without drop path and output norms."""
    tokens = backbone.patch_embed(x)
    x, protected, maps = tokens.x, tokens.protected, {}
    for i, block in enumerate(backbone.blocks):
        q, k, v = (
            t.unflatten(-1, (block.attn.num_heads, -1)) for t in _linear(block.attn.qkv, block.norm1(x)).chunk(3, -1)
        )  # (B, P+N, h, d)
        ids = F.pad(semantic_ids(k[:, protected:], num_clusters), (protected, 0), value=-1)  # (B, h, P+N)
        seen = (ids[..., None] == ids[..., None, :]) | (ids[..., None] < 0) | (ids[..., None, :] < 0)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, h, P+N, d)
        scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~seen, float('-inf'))
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + block.scale1(_linear(block.attn.proj, out))
        x = x + block.scale2(_linear(block.mlp.fc2, F.gelu(_linear(block.mlp.fc1, block.norm2(x)))))
        maps[i] = x[:, protected:].unflatten(1, tokens.map_size).permute(0, 3, 1, 2)
    return tuple(maps[i] for i in backbone.out_indices)


def _attend(layer: nn.Module, x: Tensor, num_clusters: int, *given: Tensor | None) -> Tensor:
    """(B, H, W, C) -> (B, H, W, C)."""
    height, width = x.shape[1:3]
    values = _linear(layer.qkv, x)[..., -x.shape[-1] :]
    q, k, v = (t.flatten(1, 2).unflatten(-1, (layer.num_heads, -1)) for t in _linear(layer.qkv, x).chunk(3, -1))
    q, k = rotated(q, height, width), rotated(k, height, width)
    ids = given[0] if given else semantic_ids(k, num_clusters) if num_clusters > 1 else None
    out = attention(q, k, v, ids).flatten(2).view_as(x)
    return _linear(layer.out_proj, out + _nhwc(_conv(layer.lepe, _nchw(values))))


def _conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, 1, layer.groups)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)
