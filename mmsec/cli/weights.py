"""The weights that a config names, and the ones a tool is given."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner
from torch import nn

from mmsec.cli.config import dicts_of
from mmsec.engine.unwrap import unwrapped
from mmsec.errors import InputError
from mmsec.models.backbones.base import Backbone
from mmsec.models.checkpoints.loading import classifier_weights, load_pretrained, read_pretrained
from mmsec.models.checkpoints.reading import is_pretrained, read_checkpoint
from mmsec.registry import MODELS


def check_weights(cfg: Config) -> None:
    """Refuse files of ``load_from`` and of any ``init_cfg`` of the model that cannot be read, before data is."""
    of_backbone = _pretrained(cfg.model.get('backbone'))
    kind = MODELS.get(cfg.model.backbone.type) if of_backbone else None
    for path in sorted(of_backbone):
        read_pretrained(path, getattr(kind, 'published', None), cfg.model.backbone.get('norm_eval', False))
    for path in sorted(_pretrained(cfg.model) - of_backbone):
        read_checkpoint(path)
    if cfg.get('load_from'):
        read_checkpoint(cfg.load_from)


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
    return {str(each['checkpoint']) for _, each in dicts_of(node) if is_pretrained(each) and 'checkpoint' in each}


def load_state(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Load the checkpoint that was read from ``path`` into a model; refuses missing, unknown and misshapen weights."""
    try:
        model.load_state_dict(checkpoint.get('state_dict', checkpoint), strict=True)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        shown = '\n'.join(lines[:8] + (['...'] if len(lines) > 8 else []))
        raise InputError(f"checkpoint '{path}' does not fit the config:\n{shown}") from error


def load_trained(runner: Runner, checkpoint: dict, path: str) -> None:
    """As :func:`load_state` for a runner's model, with the averaged weights where there are some.

    MMEngine saves averages as ``state_dict``. An ``EMAHook`` copies what is loaded here when the run begins.
    A classifier takes a published file, too: it holds all of its weights, under other names.
    """
    model = unwrapped(runner.model)
    if _is_classifier(model) and not any(
        key.startswith('backbone.') for key in checkpoint.get('state_dict', checkpoint)
    ):
        checkpoint = {'state_dict': classifier_weights(model, checkpoint)}
    load_state(model.module if isinstance(model, BaseTTAModel) else model, checkpoint, path)
    runner._has_loaded = True


def _is_classifier(model: nn.Module) -> bool:
    """Whether a model is a classifier of mmpretrain on a backbone of mmsec."""
    return isinstance(getattr(model, 'backbone', None), Backbone) and hasattr(getattr(model, 'head', None), 'fc')


def build_backbone(cfg: Config, checkpoint: str | None) -> Backbone:
    """The backbone of a config in evaluation mode, with the weights of a published or trained file or random ones.

    Raises:
        InputError: If the backbone is none of mmsec's, or the checkpoint does not fit it.
    """
    part = dict(cfg.model.get('backbone') or {}, init_cfg=None)
    if 'type' not in part:
        raise InputError('the config has no model.backbone with a type')
    with MODELS.switch_scope_and_registry(None) as registry:  # that of the host
        kind = registry.get(part['type']) if isinstance(part['type'], str) else part['type']
    if kind is not None and not issubclass(kind, Backbone):  # before it asks for options that are not there
        raise InputError(f'the backbone of the config is {kind.__name__}, which is none of mmsec')
    backbone = MODELS.build(part)
    if checkpoint:
        load_pretrained(backbone, checkpoint)
    return backbone.eval()
