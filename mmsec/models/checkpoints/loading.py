"""A published or self-trained checkpoint -> the weights of a backbone, strictly.

Published files hold ``{model, model_ema, args, ...}``; files trained with OpenMMLab hold ``{state_dict, ...}`` with the
prefix ``backbone.``, and the averaged weights where a run has some. Both load without being converted first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint, weights_of

_LISTED = 3
_COUNTED = 10  # so many weights of a head are told by their number


def read_pretrained(path: str | Path, published: str | None, norm_eval: bool = True) -> dict:
    """Read the checkpoint that a backbone starts from; if it is not there, an InputError says where to get it.

    ``published`` is where published weights are linked, ``norm_eval`` whether the backbone may keep BatchNorm's
    statistics, which random weights should not.
    """
    local = str(path).partition('#sha256=')[0]
    if published and '://' not in local and not Path(local).expanduser().is_file():
        raise InputError(
            f"checkpoint '{path}' not found. Published weights: follow the links in the README of {published} and save "
            f"the file as '{path}'. For random weights instead: pretrained=None in Python, else --cfg-options "
            f'model.backbone.init_cfg=None{" model.backbone.norm_eval=False" * norm_eval}; '
            'docs/get_started.md#weights has others, for short runs'
        )
    return read_checkpoint(path)


def backbone_weights(checkpoint: Mapping, prefix: str | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """Find a backbone's weights in a checkpoint, of any form that :func:`weights_of` takes.

    Args:
        checkpoint (Mapping): From :func:`read_checkpoint`.
        prefix (str, optional): What the names of the backbone's weights begin with. Default: ``backbone.`` if any does.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The weights, without the prefix, and the names of all others.

    Raises:
        InputError: If no name begins with ``prefix``.
    """
    state = weights_of(checkpoint)
    if prefix is None:
        prefix = 'backbone.' if any(key.startswith('backbone.') for key in state) else ''
    elif prefix:
        prefix = f'{prefix.removeprefix("module.").removesuffix(".")}.'
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        raise InputError(f"no weight of the checkpoint begins with prefix='{prefix}'; {counted({'has': list(state)})}")
    return found, [key for key in state if not key.startswith(prefix)]


def counted(kinds: Mapping[str, list[str]]) -> str:
    """Lists of keys in one line: of each kind that there is the count, and at most three keys."""
    return '; '.join(
        f'{len(keys)} {kind}: {", ".join(keys[:_LISTED])}{", ..." * (len(keys) > _LISTED)}'
        for kind, keys in kinds.items()
        if keys
    )


def of_other_parts(keys: list[str]) -> list[str]:
    """Names of weights outside the backbone; those of a large part become one, with their number."""
    parts: dict[str, list[str]] = {}
    for key in keys:
        parts.setdefault(key.split('.')[0], []).append(key)
    return [
        name
        for part, names in parts.items()
        for name in ([f'{part} ({len(names)} weights)'] if len(names) > _COUNTED else names)
    ]


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Weights that a file lacks, has in another shape, or has and a model does not."""
    return {
        'missing': [key for key in own if key not in state],
        'of another shape': [
            f'{key}: {tuple(state[key].shape)} in the file, {tuple(value.shape)} in the model'
            for key, value in own.items()
            if key in state and state[key].shape != value.shape
        ],
        'unknown': [key for key in state if key not in own],
    }


def check_values(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse weights that fit a model's state by name and shape, and whose values no training gives.

    Raises:
        InputError: If any is no floating-point number where the model has those, not finite, or a variance below zero.
    """
    bad: dict[str, list[str]] = {'no floating-point numbers': [], 'not finite': [], 'negative variances': []}
    for key, value in own.items():
        given = state.get(key)
        if given is None or given.shape != value.shape or not value.is_floating_point():
            continue
        if not given.is_floating_point():
            bad['no floating-point numbers'].append(f'{key} ({given.dtype})')
        elif not given.to(value.dtype).isfinite().all() and value.isfinite().all():
            bad['not finite'].append(key)
        elif key.endswith('running_var') and (given < 0).any():
            bad['negative variances'].append(key)
    if any(bad.values()):
        raise InputError(f"checkpoint '{path}' holds values that no training gives. Weights {counted(bad)}")


def classifier_weights(model: nn.Module, checkpoint: Mapping) -> dict[str, Tensor]:
    """Name a published file's weights, the classifier's too, as a classifier of mmpretrain does.

    Args:
        model (nn.Module): The classifier, with a backbone of mmsec.
        checkpoint (Mapping): From :func:`read_checkpoint`; ``model_ema`` is preferred over ``model``.

    Returns:
        dict[str, Tensor]: For the model's ``load_state_dict``.

    Raises:
        InputError: If the file has a second classifier, as those of distilled DeiT do.
    """
    backbone: Any = model.backbone
    weights, _ = backbone_weights(checkpoint)
    state, left = backbone.convert(weights)
    found = {f'backbone.{key}': value for key, value in state.items()}
    names = [(theirs, ours) for theirs, ours in backbone.classifier.items() if hasattr(model, ours.split('.')[0])]
    for key in left:
        ours = next((ours + key.removeprefix(theirs) for theirs, ours in names if key.startswith(theirs)), None)
        if ours is not None:
            value = weights[key]
            found[ours] = value.flatten(1) if ours == 'head.fc.weight' else value  # a 1x1 convolution in SecViT's files
        elif key.startswith('head'):
            raise InputError(f'the checkpoint has a second classifier, {key}, and the config has one')
    return found


def load_pretrained(backbone: Any, path: str | Path, prefix: str | None = None) -> None:
    """Load a backbone's weights and leave none of them at random.

    What the file has and the backbone has no place for by design (classifier, neck, heads, stages and output norms it
    was built without) is left out and named in the log. Output norms that the file lacks, as published ones do, start
    as identity, and are named in the log too. So are carriers' gates, which start at 0, of a file that has no carriers.

    Args:
        backbone (Backbone): Its ``published`` says where weights are, its ``convert`` renames them.
        path (str | Path): The checkpoint.
        prefix (str, optional): As in :func:`backbone_weights`.

    Raises:
        InputError: If the file cannot be read, or any weight is missing, misshapen or unknown, which are counted, or
            has values that no training gives.
    """
    name = type(backbone).__name__
    checkpoint = read_pretrained(path, backbone.published, backbone.norm_eval)
    try:
        weights, others = backbone_weights(checkpoint, prefix)
        state, dropped = backbone.convert(weights)
    except (InputError, RuntimeError, TypeError, IndexError) as error:  # weights that are renamed are reshaped, too
        reason = str(error).splitlines()[0]
        raise InputError(f"checkpoint '{path}' does not fit this {name}: {reason}") from error
    dropped = of_other_parts(others) + dropped
    own = backbone.state_dict()
    for key in list(state):
        if key not in own and _left_out(backbone, key):
            dropped.append(key)
            del state[key]
    fresh_norms = [key for key in own if key.startswith('out_norms.') and key not in state]
    carriers = [key for key in own if '.carriers.' in key]
    fresh_carriers = [] if any(key in state for key in carriers) else carriers
    state |= {key: own[key] for key in fresh_norms} | {key: torch.zeros_like(own[key]) for key in fresh_carriers}
    problems = counted(misfits(own, state))
    if problems:
        raise InputError(
            f"checkpoint '{path}' does not fit this {name} (another size, or not {name}?). Weights {problems}"
        )
    check_values(own, state, path)
    backbone.load_state_dict(state)
    print_log(f'{name}: loaded {len(state) - len(fresh_norms + fresh_carriers)} weights from {path}', logger='current')
    if dropped:
        print_log(f'{name}: not used from the checkpoint: {", ".join(dropped)}', logger='current')
    for fresh, start in ((fresh_norms, 'as identity'), (fresh_carriers, 'at 0, which adds nothing')):
        if fresh:
            print_log(f'{name}: not in the checkpoint, start {start}: {", ".join(fresh)}', logger='current')


def _left_out(backbone: nn.Module, key: str) -> bool:
    """Whether a key belongs to an output norm, or to a stage, block or patch merging behind the last that is built."""
    name, index = f'{key}.'.split('.')[:2]
    layers = getattr(backbone, name, None)
    beyond = isinstance(layers, nn.ModuleList) and index.isdigit() and int(index) >= len(layers)
    return beyond or name == 'out_norms'
