"""Carriers: means of parts of each cluster, by which tokens read the other clusters."""

import torch
from torch import Tensor
from torch.nn.functional import embedding

from mmsec.ops.attention import attention
from mmsec.ops.grouping import Grouping
from mmsec.ops.grouping.grouping import part_start


def carrier_attention(qkv: Tensor, grouping: Grouping | None, carriers: int, gamma: Tensor) -> Tensor:
    """Softmax attention of each token over the carriers of all clusters, scaled by d^(-1/2).

    Before that, the value of each carrier takes in those of all carriers once: v + gamma * attention(q, k, v).

    Args:
        qkv (Tensor): (B, N, 3, h, d) queries, keys and values without positions, which a mean of tokens has not.
        grouping (Grouping, optional): The clusters of the N tokens, of each image and head or of all; None for one
            cluster of all tokens in raster order.
        carriers (int): Carriers m of each of the M clusters, see :func:`carriers_of`.
        gamma (Tensor): (h,).

    Returns:
        Tensor: (B, N, h, d).

    Source: FasterViT (arXiv 2306.06189) for carriers that exchange with each other under a learned scale and with
    their window's tokens. There they are made once for each stage by a convolution, have a LayerNorm and an MLP of
    their own, and share one softmax with the tokens of their window. That they are means of clusters, made anew in each
    block, and that tokens attend to all of them and apart from their cluster, are choices of ours: clusters differ from
    block to block, and of one carrier, that of one's own cluster, attention would be a constant.
    """
    q, k, v = carriers_of(qkv, grouping, carriers).unbind(3)  # (B, h, M*m, d) each
    v = v + gamma.to(v.dtype)[:, None, None] * attention(q, k, v)
    return attention(qkv[:, :, 0].transpose(1, 2), k, v).transpose(1, 2)  # (B, h, N, d) inside


def carriers_of(qkv: Tensor, grouping: Grouping | None, carriers: int) -> Tensor:
    """Means of tokens over m parts of each cluster, cut in the grouping's order and equal to within one token.

    Args are those of :func:`carrier_attention`. Where the smallest cluster has fewer than m tokens, m is their number.
    Half precision is summed in float32.

    Returns:
        Tensor: (B, h, M*m, 3, d).
    """
    batch, num_tokens, _, heads, width = qkv.shape
    order, num_clusters = grouping or Grouping(torch.arange(num_tokens, device=qkv.device)[None, None], 1)
    carriers = min(carriers, num_tokens // num_clusters)
    number = torch.arange(num_clusters * carriers + 1, device=qkv.device)
    cluster, part = number // carriers, number % carriers
    first, behind = (part_start(each, num_tokens, num_clusters) for each in (cluster, cluster + 1))
    first = first + part_start(part, behind - first, carriers)  # sorted position of the first token of each part
    longest = -(-num_tokens // (num_clusters * carriers))
    position = first[:-1, None] + torch.arange(longest, device=qkv.device)
    inside = (position < first[1:, None]).to(torch.promote_types(qkv.dtype, torch.float32))  # (M*m, longest)
    token = order[..., position.clamp_max(num_tokens - 1)]  # (B, h, M*m, longest)
    image, head = torch.arange(batch, device=qkv.device), torch.arange(heads, device=qkv.device)
    row = (image[:, None, None, None] * num_tokens + token) * heads + head[:, None, None]
    rows = embedding(row, qkv.transpose(2, 3).flatten(0, 2).flatten(1))  # (B, h, M*m, longest, 3d)
    weight = (inside / inside.sum(1, keepdim=True))[..., None]
    return (rows * weight).sum(3).to(qkv.dtype).unflatten(-1, (3, width))
