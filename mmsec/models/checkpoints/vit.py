"""The names that timm, DeiT, MAE and DINOv2 give a ViT's weights -> ours."""

import math
import re
from collections.abc import Mapping

from mmengine.logging import print_log
from torch import Tensor

from mmsec.errors import InputError
from mmsec.ops import resize_positions

PUBLISHED = 'https://github.com/facebookresearch/deit, /mae or /dinov2'
EXTRA_TOKENS = ('patch_embed.cls_token', 'patch_embed.register_tokens')
_POSITIONS = 'patch_embed.pos_embed'
_NOT_OF_THE_BACKBONE = re.compile(r'(head|head_dist|fc_norm|pre_logits|decoder_\w+)(\.|$)|mask_token$')


def family(state: Mapping[str, Tensor]) -> str:
    """Recognise where a ViT's weights come from.

    Args:
        state (Mapping[str, Tensor]): Its weights.

    Returns:
        str: 'mmsec', 'DINOv2', 'MAE', 'distilled DeiT', 'timm with layer scale', or 'timm, DeiT or the encoder of
        MAE', which look alike.
    """
    if _POSITIONS in state:
        return 'mmsec'
    if _has_layer_scale(state):
        of_dino = any(key in state for key in ('mask_token', 'register_tokens', 'reg_token'))
        return 'DINOv2' if of_dino else 'timm with layer scale'
    if 'mask_token' in state or any(key.startswith('decoder_') for key in state):
        return 'MAE'
    return 'distilled DeiT' if 'dist_token' in state else 'timm, DeiT or the encoder of MAE'


def _has_layer_scale(state: Mapping[str, Tensor]) -> bool:
    return any(re.search(r'\.(ls|scale)1\.gamma$', key) for key in state)


def convert(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Name the weights as :class:`mmsec.models.backbones.vit.ViT` does.

    Published positions stand in one list for class token, distillation token and patches. Those of the tokens are
    added to the tokens, those of the patches become a map, of the backbone's size. The last norm becomes the norm of
    each map that is returned. The distillation token of DeiT becomes a register token.

    Args:
        state (Mapping[str, Tensor]): A backbone's weights, in either naming.
        own (Mapping[str, Tensor]): The state of the backbone that they are for.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The backbone's state dict, and the keys left out because they belong to a
        classifier or decoder, or because the backbone has no such token or norm.

    Raises:
        InputError: If positions are of no square map, or only one of file and backbone has layer scale.
    """
    found = family(state)
    print_log(f'ViT: the checkpoint is one of {found}', logger='current')
    if found == 'mmsec':
        dropped = [key for key in EXTRA_TOKENS if key in state and key not in own]
        return _of_the_size({key: value for key, value in state.items() if key not in dropped}, own), dropped
    if _has_layer_scale(state) and not _has_layer_scale(own):
        raise InputError(f'the checkpoint ({found}) has layer scale, and the backbone has none: set layer_scale=1e-5')
    if _has_layer_scale(own) and not _has_layer_scale(state):
        raise InputError(f'the checkpoint ({found}) has no layer scale, and the backbone has: set layer_scale=0')
    converted: dict[str, Tensor] = {}
    dropped = []
    tokens = {}
    norms = sorted({key.rsplit('.', 1)[0] for key in own if key.startswith('out_norms.')})
    for key, value in state.items():
        if key in ('cls_token', 'dist_token', 'register_tokens', 'reg_token'):
            tokens[key] = value
        elif _NOT_OF_THE_BACKBONE.match(key) or (key.startswith('norm.') and not norms):
            dropped.append(key)
        elif key.startswith('norm.'):
            converted |= {f'{norm}.{key.removeprefix("norm.")}': value for norm in norms}
        elif key == 'pos_embed':
            converted[_POSITIONS] = value
        else:
            converted[re.sub(r'\.ls([12])\.', r'.scale\1.', key)] = value
    if _POSITIONS in converted:
        converted[_POSITIONS] = _split_positions(converted[_POSITIONS], tokens)
    for key, value in tokens.items():
        name = EXTRA_TOKENS[key != 'cls_token']
        if name not in own or (key == 'dist_token' and own[name].shape[1] != 1):
            dropped.append(key)
        else:
            converted[name] = value
    return _of_the_size(converted, own), dropped


def _split_positions(positions: Tensor, tokens: dict[str, Tensor]) -> Tensor:
    """Positions (1, n, C) of a square map behind those of tokens: the latter are added to the tokens.

    Returns:
        Tensor: (1, C, H', W'); the positions of the map.
    """
    side = math.isqrt(positions.shape[1])
    count = positions.shape[1] - side**2
    with_positions = [key for key in ('cls_token', 'dist_token') if key in tokens]
    if count not in (0, len(with_positions)):
        raise InputError(
            f'pos_embed holds {positions.shape[1]} positions, and {len(with_positions)} tokens beside the patches have '
            'one: the patches are of no square map'
        )
    for i, key in enumerate(with_positions[:count]):
        tokens[key] = tokens[key] + positions[:, i : i + 1]
    return positions[:, count:].mT.unflatten(2, (side, side))


def _of_the_size(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with positions for a map of the backbone's size."""
    positions = state.get(_POSITIONS)
    if positions is not None and positions.dim() == 4:
        size = (own[_POSITIONS].shape[2], own[_POSITIONS].shape[3])
        if tuple(positions.shape[2:]) != size:
            rows, columns = positions.shape[2:]
            print_log(f'ViT: positions of {rows}x{columns} patches resized to {size[0]}x{size[1]}', logger='current')
        state[_POSITIONS] = resize_positions(positions, size)
    return state
