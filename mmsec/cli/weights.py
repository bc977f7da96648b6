"""The weights that a config names, and the ones a tool is given."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModule, BaseTTAModel
from mmengine.registry import Registry
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor, nn

from mmsec.cli.config import dicts_of
from mmsec.datasets.image_files import MEAN, STD
from mmsec.engine.unwrap import unwrapped
from mmsec.errors import InputError
from mmsec.models.backbones.base import Backbone
from mmsec.models.checkpoints.loading import (
    backbone_weights,
    check_values,
    classifier_weights,
    counted,
    load_pretrained,
    misfits,
    read_pretrained,
)
from mmsec.models.checkpoints.reading import is_pretrained, named_by, read_checkpoint, weights_of
from mmsec.registry import MODELS

_RESHAPED = re.compile(r'size mismatch for (\S+): .*?Size\(\[(.*?)\]\) from .*?Size\(\[(.*?)\]\)')


def check_weights(cfg: Config) -> None:
    """Refuse files of ``load_from`` and of any ``init_cfg`` of the model that cannot be read, before data is."""
    part = cfg.model.get('backbone')
    of_backbone = _pretrained(part)
    kind = _kind(MODELS, part) if of_backbone else None
    for path in sorted(of_backbone):
        read_pretrained(path, getattr(kind, 'published', None), part.get('norm_eval', False))
    for path in sorted(_pretrained(cfg.model) - of_backbone):
        read_checkpoint(path)
    if cfg.get('load_from'):
        read_checkpoint(cfg.load_from)


def check_start(runner: Runner) -> None:
    """Refuse checkpoints that leave a run of a built model at random weights; count what a partial one gives.

    MMEngine passes over what does not fit. A run that goes on needs all weights, one of ``load_from`` any of the
    backbone, a part whose ``init_cfg`` names a checkpoint any of the part.

    Raises:
        InputError: Says which weights, and what to write.
    """
    model = unwrapped(runner.model)
    path = runner._load_from or (find_latest_checkpoint(runner.work_dir) if runner._resume else None)
    if path and runner._resume:
        checkpoint = read_checkpoint(path)
        lacking = [name for name in ('epoch', 'iter') if checkpoint.get('meta', {}).get(name) is None]
        lacking += [name for name in ('message_hub',) if name not in checkpoint]
        if lacking:
            raise InputError(
                f"no run can go on from '{path}', which has no {' and '.join(lacking)}. For its weights alone: "
                f'--cfg-options load_from={path}'
            )
        load_state(model, checkpoint, path)
    elif path:
        backbone = 'backbone.' if hasattr(model, 'backbone') else ''
        _check_fit(model, weights_of(read_checkpoint(path)), path, backbone, f"load_from='{path}'")
    for name, module in model.named_modules():
        if getattr(type(module), 'init_weights', None) is not BaseModule.init_weights:
            continue  # its own way may rename weights
        for _, each in dicts_of(module.init_cfg):
            if is_pretrained(each):
                place = f'{name}.init_cfg'.removeprefix('.')
                try:
                    state, _ = backbone_weights(read_checkpoint(named_by(each)), each.get('prefix') or '')
                except InputError as error:
                    raise InputError(f'{place}: {error}') from error
                _check_fit(module, state, each['checkpoint'], '', place)


def _check_fit(module: nn.Module, state: dict[str, Tensor], path: str, needed: str, place: str) -> None:
    """Refuse a state of which nothing fits the weights of a module that begin with ``needed``; count what does."""
    own = module.state_dict()
    differing = misfits(own, state)
    fitting = [key for key, value in own.items() if key in state and state[key].shape == value.shape]
    of_part = [key for key in own if key.startswith(needed)]
    if of_part and not any(key.startswith(needed) for key in fitting):
        what = 'the backbone' if needed else type(module).__name__
        raise InputError(
            f'{place}: none of its weights fits {what}, which would start at random. Weights {counted(differing)}. '
            'Published files, and those of a backbone alone, are loaded by model = dict(backbone=dict(init_cfg=dict('
            f"type='Pretrained', checkpoint='{path}')))"
        )
    check_values(own, state, path)
    if any(differing.values()):
        given = f'{len(fitting)} of {len(own)} weights of {type(module).__name__}'
        if needed:
            given += f', {len([key for key in fitting if key.startswith(needed)])} of {len(of_part)} of the backbone'
        print_log(f'{place} gives {given}. Weights {counted(differing)}', 'current', logging.WARNING)


def _kind(registry: Registry, part: Mapping) -> Any:
    """The class of a part of a config, which it may name or hold."""
    return registry.get(part['type']) if isinstance(part['type'], str) else part['type']


def check_frozen(cfg: Config) -> None:
    """Refuse random weights of a backbone that ``norm_eval`` or ``frozen_stages`` would keep as they are."""
    backbone = cfg.model.get('backbone') or {}
    last = Path(cfg.work_dir, 'last_checkpoint')  # what MMEngine looks at where resume=True stands alone
    if _pretrained([cfg.model.get('init_cfg'), backbone]):
        return
    if cfg.get('load_from') or (cfg.get('resume') and last.is_file()):
        return
    fixed, learning = [], []
    if backbone.get('norm_eval'):
        fixed.append('norm_eval=True')
        learning.append('model.backbone.norm_eval=False')
    for place, node in dicts_of(backbone, 'model.backbone'):  # one backbone may wrap another
        if node.get('frozen_stages', -1) >= 0:
            fixed.append(f'frozen_stages={node["frozen_stages"]}')
            learning.append(f'{place}.frozen_stages=-1')
    if fixed:
        raise InputError(
            f'the backbone starts from random weights, and {" and ".join(fixed)} keeps what was never trained as it is '
            f'(BatchNorm: mean 0, variance 1). Name a checkpoint, or let it learn: --cfg-options {" ".join(learning)}'
        )


def _pretrained(node: Any) -> set[str]:
    """The checkpoints that initialisers in a config name, at any depth."""
    return {named_by(each) for _, each in dicts_of(node) if is_pretrained(each) and 'checkpoint' in each}


def load_state(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Load the checkpoint that was read from ``path`` into a model; refuses missing, unknown and misshapen weights."""
    state = weights_of(checkpoint)
    check_values(model.state_dict(), state, path)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        text = str(error)
        differing = {kind: _listed(text, start) for kind, start in (('missing', 'Missing'), ('unknown', 'Unexpected'))}
        differing['of another shape'] = [
            f'{key}: ({theirs}) in the file, ({ours}) in the model' for key, theirs, ours in _RESHAPED.findall(text)
        ]
        found = counted(differing) or text.splitlines()[-1].strip()
        raise InputError(f"checkpoint '{path}' does not fit the config: weights {found}") from error


def _listed(text: str, start: str) -> list[str]:
    """The keys in a line of torch's error."""
    line = re.search(rf'{start} key\(s\) in state_dict: (.*)', text)
    return re.findall(r'"([^"]+)"', line[1]) if line else []


def load_trained(runner: Runner, checkpoint: dict, path: str) -> None:
    """As :func:`load_state` for a runner's model, with the averaged weights where there are some.

    MMEngine saves averages as ``state_dict``. An ``EMAHook`` copies what is loaded here when the run begins.
    A classifier takes a published file, too: it holds all of its weights, under other names.
    """
    model = unwrapped(runner.model)
    if _is_classifier(model) and not any(key.startswith('backbone.') for key in weights_of(checkpoint)):
        checkpoint = {'state_dict': classifier_weights(model, checkpoint)}
    load_state(model.module if isinstance(model, BaseTTAModel) else model, checkpoint, path)
    runner._has_loaded = True


def _is_classifier(model: nn.Module) -> bool:
    """Whether a model is a classifier of mmpretrain on a backbone of mmsec."""
    return isinstance(getattr(model, 'backbone', None), Backbone) and hasattr(getattr(model, 'head', None), 'fc')


def config_of_backbone(type: str, arch: str | dict) -> Config:
    """A config of a backbone alone, whose images are normalised as for all published weights."""
    preprocessor = dict(type='ImgDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True)
    return Config(dict(model=dict(backbone=dict(type=type, arch=arch), data_preprocessor=preprocessor)))


def build_backbone(cfg: Config, checkpoint: str | None) -> Backbone:
    """The backbone of a config in evaluation mode, with the weights of a published or trained file or random ones.

    Raises:
        InputError: If the backbone is none of mmsec's, or the checkpoint does not fit it.
    """
    part = dict(cfg.model.get('backbone') or {}, init_cfg=None)
    if 'type' not in part:
        raise InputError('the config has no model.backbone with a type')
    with MODELS.switch_scope_and_registry(None) as registry:  # that of the host
        kind = _kind(registry, part)
    if kind is not None and not issubclass(kind, Backbone):  # before it asks for options that are not there
        raise InputError(f'the backbone of the config is {kind.__name__}, which is none of mmsec')
    backbone = MODELS.build(part)
    if checkpoint:
        load_pretrained(backbone, checkpoint)
    return backbone.eval()
