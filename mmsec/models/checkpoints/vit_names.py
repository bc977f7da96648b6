"""The names that timm and transformers give the weights of DINOv2 and DINOv3 -> those of the official files."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_NAMES = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r'^model\.', ''),
        (r'^embeddings\.(cls_token|mask_token|register_tokens)$', r'\1'),
        (r'^(storage_tokens|reg_token)$', 'register_tokens'),
        (r'^embeddings\.position_embeddings$', 'pos_embed'),
        (r'^embeddings\.patch_embeddings\.(projection\.)?', 'patch_embed.proj.'),
        (r'^(encoder\.)?layer\.', 'blocks.'),
        (r'^layernorm\.', 'norm.'),
        (r'\.attention\.(attention\.)?(q_proj|query)\.', '.attn.q.'),
        (r'\.attention\.(attention\.)?(k_proj|key)\.', '.attn.k.'),
        (r'\.attention\.(attention\.)?(v_proj|value)\.', '.attn.v.'),
        (r'\.attn\.([qv])_bias$', r'.attn.\1.bias'),
        (r'\.attention\.(o_proj|output\.dense)\.', '.attn.proj.'),
        (r'\.(layer_scale|gamma_)([12])(\.lambda1)?$', r'.ls\2.gamma'),
    )
]
_MLP = {'up_proj': 'fc1', 'down_proj': 'fc2'}
_GATED_MLP = {'fc1_g': 'w1', 'gate_proj': 'w1', 'fc1_x': 'w2', 'up_proj': 'w2', 'fc2': 'w3', 'down_proj': 'w3'}


def official_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name weights as the official files do.

    Queries, keys and values become one layer. A bias that the file has for some of them alone is 0 for the others.

    Args:
        state (Mapping[str, Tensor]): Weights of a backbone. Names that are official already stay.

    Returns:
        dict[str, Tensor]: The same weights. What is not known keeps its name.
    """
    gated = any(re.search(r'\.mlp\.(fc1_g|gate_proj)\.', key) for key in state)
    found = {}
    for name, value in state.items():
        for pattern, theirs in _NAMES:
            name = pattern.sub(theirs, name)
        layer = re.search(r'\.mlp\.(\w+)\.', name)
        if layer:
            name = name.replace(layer[1], (_GATED_MLP if gated else _MLP).get(layer[1], layer[1]))
        found[name] = value
    for attention in {name.rsplit('.', 2)[0] for name in found if re.search(r'\.attn\.[qkv]\.', name)}:
        weights, biases = ([f'{attention}.{part}.{kind}' for part in 'qkv'] for kind in ('weight', 'bias'))
        if all(name in found for name in weights):
            found[f'{attention}.qkv.weight'] = torch.cat([found.pop(name) for name in weights])
        of_query, of_key, of_value = biases
        if of_query in found and of_value in found:
            found.setdefault(of_key, torch.zeros_like(found[of_query]))
            found[f'{attention}.qkv.bias'] = torch.cat([found.pop(name) for name in biases])
    return found
