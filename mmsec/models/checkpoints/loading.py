"""A published or self-trained checkpoint -> the weights of a backbone, strictly.

Published files hold ``{model, model_ema, args, ...}``; files trained with OpenMMLab hold ``{state_dict, ...}`` with the
prefix ``backbone.``, and the averaged weights where a run has some. Both load without being converted first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint

_LISTED = 20


def read_pretrained(path: str | Path, published: str | None, norm_eval: bool = True) -> dict:
    """Read the checkpoint that a backbone starts from; if it is not there, an InputError says where to get it.

    ``published`` is where published weights are linked, ``norm_eval`` whether the backbone may keep BatchNorm's
    statistics, which random weights should not.
    """
    if published and '://' not in str(path) and not Path(path).is_file():
        raise InputError(
            f"checkpoint '{path}' not found. Published weights: follow the links in the README of {published} and save "
            f"the file as '{path}'. To train from random weights instead: --cfg-options model.backbone.init_cfg=None"
            + ' model.backbone.norm_eval=False'
            * norm_eval
        )
    return read_checkpoint(path)


def backbone_weights(checkpoint: Mapping) -> tuple[dict[str, Tensor], list[str]]:
    """Find a backbone's weights in a checkpoint: them, without a prefix, and the keys of all else.

    It may be published (``model_ema`` preferred over ``model``), trained with OpenMMLab (``state_dict`` with the prefix
    ``backbone.``), or a bare state dict.
    """
    named = (checkpoint.get(key) for key in ('model_ema', 'model', 'state_dict'))  # model_ema may be there and empty
    state = next((state for state in named if state), checkpoint)
    prefix = 'backbone.' if any(key.startswith('backbone.') for key in state) else ''
    found = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and isinstance(value, Tensor)
    }
    return found, [key for key in state if key.removeprefix(prefix) not in found or not key.startswith(prefix)]


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


def load_pretrained(backbone: Any, path: str | Path) -> None:
    """Load a backbone's weights and leave none of them at random.

    What the file has and the backbone has no place for by design (classifier, neck, heads, stages and output norms it
    was built without) is left out and named in the log. Output norms that the file lacks, as published ones do, start
    as identity, and are named in the log too.

    Args:
        backbone (Backbone): Its ``published`` says where weights are, its ``convert`` renames them.
        path (str | Path): The checkpoint.

    Raises:
        InputError: If the file cannot be read, or any weight is missing, misshapen or unknown; the keys are listed.
    """
    name = type(backbone).__name__
    weights, dropped = backbone_weights(read_pretrained(path, backbone.published, backbone.norm_eval))
    state, of_classifier = backbone.convert(weights)
    dropped += of_classifier
    own = backbone.state_dict()
    for key in list(state):
        if key not in own and _left_out(backbone, key):
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
            f"checkpoint '{path}' does not fit this {name} (another size, or not {name}?). Weights "
            + '; '.join(problems)
        )
    backbone.load_state_dict(state | {key: own[key] for key in fresh_norms})
    print_log(f'{name}: loaded {len(state)} weights from {path}', logger='current')
    if dropped:
        print_log(f'{name}: not used from the checkpoint: {", ".join(dropped)}', logger='current')
    if fresh_norms:
        print_log(f'{name}: not in the checkpoint, start as identity: {", ".join(fresh_norms)}', logger='current')


def _left_out(backbone: nn.Module, key: str) -> bool:
    """Whether a key belongs to an output norm, or to a stage, block or patch merging behind the last that is built."""
    name, index = f'{key}.'.split('.')[:2]
    layers = getattr(backbone, name, None)
    beyond = isinstance(layers, nn.ModuleList) and index.isdigit() and int(index) >= len(layers)
    return beyond or name == 'out_norms'
