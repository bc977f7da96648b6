"""The names that the Swin authors, mmdetection and mmsegmentation give Swin's weights -> ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from mmsec.models.checkpoints.reading import add_weight

PUBLISHED = 'https://github.com/microsoft/Swin-Transformer'
_CLASSIFIER = re.compile(r'(head|norm)\.')
_OF_WINDOWS = re.compile(r'\.(relative_position_bias_table|relative_position_index|attn_mask)$')
_RENAMED = (
    (re.compile(r'^layers\.'), 'stages.'),
    (re.compile(r'\.attn\.(qkv|proj)\.'), r'.attn.w_msa.\1.'),
    (re.compile(r'\.mlp\.fc1\.'), '.ffn.layers.0.0.'),
    (re.compile(r'\.mlp\.fc2\.'), '.ffn.layers.1.'),
    (re.compile(r'^patch_embed\.proj\.'), 'patch_embed.projection.'),
    (re.compile(r'^norm(\d+)\.'), r'out_norms.\1.'),
)


def convert(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Name the weights as :class:`mmsec.models.ClusteredSwin` does.

    Args:
        state (Mapping[str, Tensor]): A backbone's weights, in the naming of the authors, of a host, or ours.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The backbone's state dict, and the keys left out because they belong to
        the classifier or to windows: tables of relative positions, their indices and the masks of shifted windows.
    """
    of_authors = any(key.startswith('layers.') for key in state)
    dropped: list[str] = []
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if _CLASSIFIER.match(key) or _OF_WINDOWS.search(key):
            dropped.append(key)
            continue
        name = key
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        if of_authors and '.downsample.' in name:
            # Of a 2x2 patch the authors keep the channels together, column by column; the hosts keep each channel's.
            value = value.unflatten(-1, (2, 2, -1)).transpose(-1, -3).flatten(-3)
        add_weight(converted, name, value)
    return converted, dropped
