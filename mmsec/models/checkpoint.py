"""A published or self-trained checkpoint -> the state dict of this backbone, strictly.

Published SecViT files hold ``{model, model_ema, args, ...}`` with linear layers stored as 1x1 convolutions; files
trained with mmsec hold ``{state_dict, ...}`` with the prefix ``backbone.``. Both load without being converted first.
"""

import argparse
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from mmsec.errors import InputError

_CLASSIFIER = re.compile(r'(proj|norm|head)\.')
_LINEAR = re.compile(r'\.(qkv|out_proj|fc1|fc2)\.weight$')
_RENAMED = (
    (re.compile(r'^layers\.(\d+)\.downsample\.'), r'downsamples.\1.'),
    (re.compile(r'^layers\.(\d+)\.blocks\.'), r'stages.\1.blocks.'),
    (re.compile(r'\.(norm[12])\.norm\.'), r'.\1.'),
    (re.compile(r'\.gamma_([12])$'), r'.scale\1.gamma'),
)
_LISTED = 20


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict:
    """Read a checkpoint file without running code from it.

    Tensors and plain values are allowed, and :class:`argparse.Namespace`, in which the published files keep their
    training options.

    Args:
        path (str | Path): A file on this machine.
        map_location (Any): Where its tensors go, as :func:`torch.load` takes it. Default: 'cpu'.

    Returns:
        dict: What the file holds.

    Raises:
        InputError: If the path is a URL, there is no such file, it is truncated, or holds anything else.
    """
    if '://' in str(path):
        raise InputError(f"checkpoint '{path}': download it first; checkpoints are read from files on this machine")
    if not Path(path).is_file():
        raise InputError(f"checkpoint '{path}' not found")
    try:
        _check_sums(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch.load has no common error: zip, pickle, end of file, runtime
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        blocked = re.search(r'GLOBAL ([\w.]+)', str(error))
        if blocked:
            reason = f'it holds a {blocked[1]}, and only tensors and plain values are loaded'
        else:
            reason = f'the file is damaged or no checkpoint ({reason})'
        raise InputError(f"checkpoint '{path}' cannot be read: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"checkpoint '{path}' holds a {type(checkpoint).__name__}, expected a dict")
    return checkpoint


def _check_sums(path: str | Path) -> None:
    """Compare the checksums that torch writes and does not read; files from before torch 1.6 have none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f'checksum of {damaged} is wrong')


def is_pretrained(init_cfg: Mapping) -> bool:
    """Whether an initialiser of MMEngine, such as ``dict(type='Pretrained', checkpoint=PATH)``, reads a checkpoint."""
    kind = init_cfg.get('type')
    return kind is PretrainedInit or (isinstance(kind, str) and kind.split('.')[-1] == 'Pretrained')


def read_pretrained(path: str | Path) -> dict:
    """Read the checkpoint that a backbone starts from; :func:`read_checkpoint` with help for one that is not there.

    Args:
        path (str | Path): What ``init_cfg`` names.

    Returns:
        dict: What the file holds, on the CPU.

    Raises:
        InputError: If there is no such file (where to get it, where to put it, how to do without), or as
            :func:`read_checkpoint`.
    """
    if '://' not in str(path) and not Path(path).is_file():
        raise InputError(
            f"checkpoint '{path}' not found. Published SecViT weights: follow the links in the README of "
            f"https://github.com/qhfan/SecViT and save the file as '{path}'. "
            'To train from random weights instead: --cfg-options model.backbone.init_cfg=None '
            'model.backbone.norm_eval=False'
        )
    return read_checkpoint(path)


def backbone_state(checkpoint: Mapping) -> tuple[dict[str, Tensor], list[str]]:
    """Find a SecViT backbone in a checkpoint and name its weights as :class:`mmsec.models.SecViT` does.

    Args:
        checkpoint (Mapping): From :func:`read_checkpoint`: published (``model_ema`` preferred over ``model``), trained
            with OpenMMLab (``state_dict`` with the prefix ``backbone.``), or a bare state dict in either naming.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The backbone's state dict, and the keys left out because they belong to a
        classifier, neck or head, or are computed anew (the rotary frequencies).

    Raises:
        InputError: If the rotary frequencies stored in it are not those of SecViT.
    """
    state = next((checkpoint[key] for key in ('model_ema', 'model', 'state_dict') if key in checkpoint), checkpoint)
    dropped: list[str] = []
    if any(key.startswith('backbone.') for key in state):
        dropped = [key for key in state if not key.startswith('backbone.')]
        state = {key.removeprefix('backbone.'): value for key, value in state.items() if key not in set(dropped)}
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or _CLASSIFIER.match(key):
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
            converted[name] = value
    return converted, dropped


def _check_frequencies(key: str, angle: Tensor) -> None:
    """Refuse a checkpoint whose positions were encoded otherwise: it would load and be silently wrong."""
    expected = (1.0 / 10000 ** torch.linspace(0, 1, len(angle) // 2)).repeat_interleave(2)
    if not torch.allclose(angle.float(), expected):
        raise InputError(f'{key} holds other rotary frequencies than SecViT: {angle.tolist()}')


def load_pretrained(backbone: nn.Module, path: str | Path) -> None:
    """Load a backbone's weights and leave none of them at random.

    What the file has and the backbone has no place for by design (classifier, neck, heads, stages and output norms it
    was built without) is left out and named in the log. Output norms that the file lacks, as published ones do, start
    as identity, and are named in the log too.

    Args:
        backbone (nn.Module): A :class:`mmsec.models.SecViT`.
        path (str | Path): The checkpoint.

    Raises:
        InputError: If the file cannot be read, or any weight is missing, misshapen or unknown; the keys are listed.
    """
    state, dropped = backbone_state(read_pretrained(path))
    own = backbone.state_dict()
    for key in list(state):
        if key not in own and _left_out_by_design(key, backbone):
            dropped.append(key)
            del state[key]
    fresh_norms = [key for key in own if key.startswith('out_norms.') and key not in state]
    missing = [key for key in own if key not in state and key not in fresh_norms]
    unknown = [key for key in state if key not in own]
    misshapen = [
        f'{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the backbone'
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = [
        f'{len(keys)} {kind}: ' + ', '.join(keys[:_LISTED]) + (', ...' if len(keys) > _LISTED else '')
        for kind, keys in (('missing', missing), ('of another shape', misshapen), ('unknown', unknown))
        if keys
    ]
    if problems:
        raise InputError(
            f"checkpoint '{path}' does not fit this SecViT (another size, or not SecViT?). Weights "
            + '; '.join(problems)
        )
    backbone.load_state_dict(state | {key: own[key] for key in fresh_norms})
    print_log(f'SecViT: loaded {len(state)} weights from {path}', logger='current')
    if dropped:
        print_log(f'SecViT: not used from the checkpoint: {", ".join(dropped)}', logger='current')
    if fresh_norms:
        print_log(f'SecViT: not in the checkpoint, start as identity: {", ".join(fresh_norms)}', logger='current')


def _left_out_by_design(key: str, backbone: nn.Module) -> bool:
    """Whether ``key`` belongs to a stage or output norm that ``out_indices`` and ``out_norm`` leave out."""
    if key.startswith('out_norms.'):
        return True
    match = re.match(r'(stages|downsamples)\.(\d+)\.', key)
    return bool(match) and int(match[2]) >= len(getattr(backbone, match[1]))
