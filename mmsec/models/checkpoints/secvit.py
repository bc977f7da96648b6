"""The names that the public code gives SecViT's weights -> ours. Linear layers are 1x1 convolutions there."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import add_weight

PUBLISHED = 'https://github.com/qhfan/SecViT'
_CLASSIFIER = re.compile(r'(proj|norm|head)\.')
_LINEAR = re.compile(r'\.(qkv|out_proj|fc1|fc2)\.weight$')
_RENAMED = (
    (re.compile(r'^layers\.(\d+)\.downsample\.'), r'downsamples.\1.'),
    (re.compile(r'^layers\.(\d+)\.blocks\.'), r'stages.\1.blocks.'),
    (re.compile(r'\.(norm[12])\.norm\.'), r'.\1.'),
    (re.compile(r'\.gamma_([12])$'), r'.scale\1.gamma'),
)


def convert(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Name the weights as :class:`mmsec.models.SecViT` does.

    Args:
        state (Mapping[str, Tensor]): A backbone's weights, in either naming.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The backbone's state dict, and the keys left out because they belong to
        the classifier or are computed anew (the rotary frequencies).

    Raises:
        InputError: If the rotary frequencies stored in it are not those of SecViT.
    """
    dropped: list[str] = []
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if _CLASSIFIER.match(key):
            dropped.append(key)
        elif key.endswith('.RoPE.angle'):
            _check_frequencies(key, value)
            dropped.append(key)
        else:
            name = key
            for pattern, replacement in _RENAMED:
                name = pattern.sub(replacement, name)
            if _LINEAR.search(name) and value.dim() == 4:
                value = value.flatten(1)
            elif name.endswith('.gamma'):
                value = value.flatten()
            add_weight(converted, name, value)
    return converted, dropped


def _check_frequencies(key: str, angle: Tensor) -> None:
    """Refuse a checkpoint whose positions were encoded otherwise: it would load and be silently wrong."""
    expected = (1.0 / 10000 ** torch.linspace(0, 1, len(angle) // 2)).repeat_interleave(2)
    if not torch.allclose(angle.float(), expected):
        raise InputError(f'{key} holds other rotary frequencies than SecViT: {angle.tolist()}')
