"""Whether neck and heads of a config fit its backbone."""

import inspect

from mmengine.config import Config

from mmsec.errors import InputError
from mmsec.models.backbones.base import Backbone
from mmsec.registry import MODELS


def check_channels(cfg: Config) -> None:
    """Check that what takes the maps of one of our backbones expects as many channels as they have.

    Looked at are ``in_channels`` of the neck or, without one, of each head, by ``in_index`` where there is one. One
    number without an ``in_index`` must be the channels of some map. A backbone that does not say its channels as ours
    do is not looked at.
    """
    model = cfg.model.get('module', cfg.model)  # test-time augmentation wraps it
    channels = _channels(model.get('backbone') or {})
    if channels is None:
        return
    heads = [name for name in model if name.endswith('head')]
    for name in ['neck'] if model.get('neck') else heads:
        parts = model[name] if isinstance(model[name], list) else [model[name]]
        for i, part in enumerate(parts[:1] if name == 'neck' else parts):  # further necks take what the first makes
            place = f'model.{name}.{i}' if isinstance(model[name], list) else f'model.{name}'
            if part:
                _check(place, part, channels, model.backbone.type)


def _channels(part: dict) -> list[int] | None:
    """Channels of each map that a backbone of a config returns, or None if they cannot be told."""
    kind = MODELS.get(part['type']) if isinstance(part.get('type'), str) else part.get('type')
    if not (inspect.isclass(kind) and issubclass(kind, Backbone)):
        return None
    arch = part.get('arch')
    dims = (kind.arch_zoo.get(arch, {}) if isinstance(arch, str) else arch or {}).get('embed_dims')
    if dims is None:
        return None  # such as a wrapper around a backbone of the host
    indices = part.get('out_indices', inspect.signature(kind).parameters['out_indices'].default)
    if isinstance(dims, int):
        return [dims] * len(indices or (-1,))
    if not all(0 <= i < len(dims) for i in indices):
        return None  # building the backbone says what is wrong
    return [dims[i] for i in indices]


def _check(place: str, part: dict, channels: list[int], backbone: str) -> None:
    """Check one neck or head against the channels of the backbone's maps."""
    given, index = part.get('in_channels'), part.get('in_index')
    if given is None:
        return
    wanted: int | list[int] = channels
    of = 'maps'
    if index is not None:
        indices = index if isinstance(index, list | tuple) else [index]
        if not all(-len(channels) <= i < len(channels) for i in indices):
            raise InputError(f'{place}.in_index={index}, but {backbone} returns {len(channels)} maps, numbered from 0')
        chosen = [channels[i] for i in indices]
        wanted = chosen if isinstance(given, list | tuple) else chosen[0]
        of = f'maps {list(indices)}'
    elif isinstance(given, int):
        if given in channels:
            return
        wanted = channels[-1]
        of = f'maps, of {", ".join(map(str, channels))} channels,'
    if (list(given) if isinstance(given, list | tuple) else given) != wanted:
        fit = str(wanted).replace(' ', '')
        raise InputError(
            f'{place}.in_channels={given} does not fit the {of} of {backbone}. Set it to what they have: '
            f'--cfg-options {place}.in_channels={fit}'
        )
