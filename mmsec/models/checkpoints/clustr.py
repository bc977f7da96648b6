"""The names that the public code gives ClusTR's weights -> ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from mmsec.models.checkpoints.reading import add_weight

PUBLISHED = 'https://github.com/YtongXie/ClusTR'
_OF_STAGE = re.compile(r'^(patch_embed|block|norm)(\d+)\.')


def convert(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Name the weights as :class:`mmsec.models.ClusTR` does.

    Args:
        state (Mapping[str, Tensor]): A backbone's weights, in either naming.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The backbone's state dict, and the keys left out because they belong to
        the classifier.
    """
    dropped: list[str] = []
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith('head.'):
            dropped.append(key)
        else:
            name = _OF_STAGE.sub(_in_stage, key).replace('.mlp.dwconv.dwconv.', '.mlp.dwconv.')
            add_weight(converted, name, value)
    return converted, dropped


def _in_stage(match: re.Match) -> str:
    """``block2.`` -> ``stages.1.blocks.``: the public code counts stages from 1."""
    part = {'block': 'blocks'}.get(match[1], match[1])
    return f'stages.{int(match[2]) - 1}.{part}.'
