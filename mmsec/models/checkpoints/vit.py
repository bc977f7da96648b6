"""The weights of a ViT as timm, transformers, DeiT, MAE, DINOv2 and DINOv3 write them -> ours."""

import math
import re
from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import add_weight
from mmsec.models.checkpoints.vit_names import official_names
from mmsec.ops import resize_positions, rotary_periods

PUBLISHED = 'https://github.com/facebookresearch/deit, /mae, /dinov2 or /dinov3'
EXTRA_TOKENS = ('patch_embed.cls_token', 'patch_embed.register_tokens')
_POSITIONS = 'patch_embed.pos_embed'
_NOT_OF_THE_BACKBONE = re.compile(r'(head|head_dist|fc_norm|pre_logits|decoder_\w+|local_cls_norm)(\.|$)|mask_token$')


def family(state: Mapping[str, Tensor]) -> str:
    """Recognise where a ViT's weights come from.

    Args:
        state (Mapping[str, Tensor]): Its weights.

    Returns:
        str: 'mmsec', 'DINOv3', 'DINOv2', 'MAE', 'distilled DeiT', 'timm with layer scale', or 'timm, DeiT or the
        encoder of MAE', which look alike. Files of DINOv2 and DINOv3 may be named as timm or transformers do.
    """
    published = any(key in state for key in ('cls_token', 'pos_embed', 'norm.weight'))
    if _POSITIONS in state or ('patch_embed.proj.weight' in state and not published):  # rotary positions are no weights
        return 'mmsec'
    state = official_names(state)
    if 'register_tokens' in state and 'pos_embed' not in state:
        return 'DINOv3'
    if _has_layer_scale(state):
        of_dino = any(key in state for key in ('mask_token', 'register_tokens', 'reg_token'))
        return 'DINOv2' if of_dino else 'timm with layer scale'
    if 'mask_token' in state or any(key.startswith('decoder_') for key in state):
        return 'MAE'
    return 'distilled DeiT' if 'dist_token' in state else 'timm, DeiT or the encoder of MAE'


def _has_layer_scale(state: Mapping[str, Tensor]) -> bool:
    return any(re.search(r'\.(ls|scale)1\.gamma$', key) for key in state)


def convert(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], num_heads: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Name the weights as :class:`mmsec.models.backbones.vit.ViT` does.

    Published positions stand in one list for class token, distillation token and patches. Those of the tokens are
    added to the tokens, those of the patches become a map, of the backbone's size. The last norm becomes the norm of
    each map that is returned. The distillation token of DeiT becomes a register token. DINOv3's bias of queries, keys
    and values is taken under its mask, and is 0 where the file has none.

    Args:
        state (Mapping[str, Tensor]): A backbone's weights, in either naming.
        own (Mapping[str, Tensor]): The state of the backbone that they are for.
        num_heads (int): Its attention heads.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The backbone's state dict, and the keys left out because they belong to a
        classifier or decoder, or because the backbone has no such token or norm.

    Raises:
        InputError: If positions are of no square map or of another kind than the backbone's, or only one of file and
            backbone has layer scale.
    """
    found = family(state)
    print_log(f'ViT: the checkpoint is one of {found}', logger='current')
    if found == 'mmsec':
        dropped = [key for key in EXTRA_TOKENS if key in state and key not in own]
        return _of_the_size({key: value for key, value in state.items() if key not in dropped}, own), dropped
    state, rotary = official_names(state), _POSITIONS not in own
    if found == 'DINOv3' and not rotary:
        raise InputError(
            "the checkpoint (DINOv3) has rotary positions, and the backbone learned ones: set arch='dinov3-base' or "
            'the size that it is of'
        )
    if rotary and found != 'DINOv3':
        raise InputError(
            f'the checkpoint ({found}) is none of DINOv3, whose rotary positions the backbone has: set another arch, '
            "such as 'base' for learned ones"
        )
    if _has_layer_scale(state) and not _has_layer_scale(own):
        raise InputError(f'the checkpoint ({found}) has layer scale, and the backbone has none: set layer_scale=1e-5')
    if _has_layer_scale(own) and not _has_layer_scale(state):
        raise InputError(f'the checkpoint ({found}) has no layer scale, and the backbone has: set layer_scale=0')
    converted: dict[str, Tensor] = {}
    dropped = []
    tokens = {}
    if rotary:
        state, dropped = _of_rotary(state, own, num_heads)
    norms = sorted({key.rsplit('.', 1)[0] for key in own if key.startswith('out_norms.')})
    for key, value in state.items():
        if key in ('cls_token', 'dist_token', 'register_tokens'):
            tokens[key] = value
        elif _NOT_OF_THE_BACKBONE.match(key) or (key.startswith('norm.') and not norms):
            dropped.append(key)
        elif key.startswith('norm.'):
            converted |= {f'{norm}.{key.removeprefix("norm.")}': value for norm in norms}
        elif key == 'pos_embed':
            converted[_POSITIONS] = value
        else:
            add_weight(converted, re.sub(r'\.ls([12])\.', r'.scale\1.', key), value)
    if _POSITIONS in converted:
        converted[_POSITIONS] = _split_positions(converted[_POSITIONS], tokens)
    for key, value in tokens.items():
        name = EXTRA_TOKENS[key != 'cls_token']
        if name not in own or (key == 'dist_token' and own[name].shape[1] != 1):
            dropped.append(key)
        else:
            converted[name] = value
    return _of_the_size(converted, own), dropped


def _of_rotary(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], num_heads: int
) -> tuple[dict[str, Tensor], list[str]]:
    """DINOv3's weights for channels that are rotated in neighbouring pairs, and the keys of what is computed anew."""
    masks = [key for key in state if key.endswith('.attn.qkv.bias_mask')]
    periods = [key for key in state if re.match(r'rope_embed(dings)?\.', key)]
    found = {key: value for key, value in state.items() if key not in (*masks, *periods)}
    _check_periods(state)
    for key in masks:
        mask, name = state[key], key.removesuffix('_mask')
        if not mask.isfinite().all():  # a model that was built and never initialised
            mask = torch.ones_like(mask)
            mask[len(mask) // 3 : 2 * len(mask) // 3] = 0
        if name in found:
            found[name] = found[name] * mask
    if not any(key.endswith('.attn.qkv.bias') for key in found):
        weights = [key for key in found if key.endswith('.attn.qkv.weight')]
        found |= {f'{key.removesuffix("weight")}bias': found[key].new_zeros(len(found[key])) for key in weights}
    for key, value in found.items():
        if re.search(r'\.attn\.qkv\.(weight|bias)$', key) and key in own and own[key].shape == value.shape:
            parts = value.unflatten(0, (3, num_heads, 2, -1))  # the two of a pair are half a head apart
            found[key] = torch.cat([parts[:2].transpose(2, 3).flatten(0, 3), parts[2].flatten(0, 2)])
    return found, masks + periods


def _check_periods(state: Mapping[str, Tensor]) -> None:
    """Refuse a file with other periods; published ones are rounded to bfloat16."""
    given = state.get('rope_embed.periods')
    if given is not None and not torch.allclose(
        given.float(), rotary_periods(4 * len(given), torch.float32, given.device), rtol=1e-2
    ):
        raise InputError(f'rope_embed.periods holds other rotary periods than DINOv3: {given.tolist()}')


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
