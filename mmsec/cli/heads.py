"""Whether neck and heads of a config fit its backbone, and its heads the classes of the data."""

import inspect
from collections.abc import Mapping
from typing import Any

import mmengine.registry
from mmengine.config import Config

from mmsec.cli.options import dicts_of
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


# Heads whose classes are not those of the data: of boundaries, of depth, and of label maps that mmdet.CocoDataset adds.
_OTHER_CLASSES = ('STDCHead', 'VPDDepthHead', 'FusedSemanticHead', 'SCNetSemanticHead')


def check_classes(cfg: Config, metainfo: Mapping, data: str) -> None:
    """Check that every head of a model has as many classes as the data, auxiliary and cascaded ones too.

    A head with more classes trains as if nothing were wrong, and one with fewer ends a run at the first label beyond.

    Args:
        cfg (Config): With a ``model``.
        metainfo (Mapping): Of a data set or a checkpoint, with ``classes``; panoptic data also have ``thing_classes``
            and ``stuff_classes``.
        data (str): What the message calls it.

    Raises:
        InputError: Names all heads that do not fit, and how to set them.
    """
    classes = metainfo['classes']
    if isinstance(classes, str) or not classes:
        raise InputError(
            f'{data}: classes is {classes!r}, expected a tuple of names. One class is written '
            "classes=('name',), with a comma"
        )
    wrong: dict[str, tuple[int, int]] = {}
    unlike: list[str] = []
    for place, part in dicts_of(cfg.model.get('module', cfg.model), 'model'):
        names = [name for name in place.split('.') if not name.isdigit()]
        if not names[-1].endswith('head') or {'rpn_head', 'backbone'} & {*names}:
            continue
        sizes = _sizes(part, metainfo)
        wrong |= {f'{place}.{size}': each for size, each in sizes.items() if each[0] != each[1]}
        weights = [each['class_weight'] for _, each in dicts_of(part) if each.get('class_weight')]
        total = sum(wanted for _, wanted in sizes.values())
        if total and weights and not isinstance(weights[0], str) and len(weights[0]) not in (total, total + 1):
            unlike.append(
                f'{place}: class_weight of its loss has {len(weights[0])} numbers, {data} has {total} classes. It '
                'needs one for each, and one more where the loss has a class for no object'
            )
    if wrong:
        given = ', '.join(f'{place} is {each[0]}' for place, each in wrong.items())
        right = ' '.join(f'{place}={each[1]}' for place, each in wrong.items())
        raise InputError(f'{given}, and {data} has {len(classes)} classes. Set them: --cfg-options {right}')
    if unlike:
        raise InputError(unlike[0])


def _sizes(part: dict, metainfo: Mapping) -> dict[str, tuple[int, int]]:
    """To each option of a head that counts classes, what it is and what it must be."""
    name, defaults = _head(part)
    if name in _OTHER_CLASSES or part.get('class_agnostic'):
        return {}
    options = {'num_classes', 'num_things_classes', 'num_stuff_classes'}
    given = {each: value for each, value in (defaults | part).items() if each in options and isinstance(value, int)}
    things, stuff = len(metainfo.get('thing_classes', metainfo['classes'])), len(metainfo.get('stuff_classes', ()))
    if 'num_classes' in part:
        given = {'num_classes': part['num_classes']}
    if 'num_things_classes' in given:
        given.pop('num_classes', None)
        if 'thing_classes' not in metainfo and sum(given.values()) == things:
            return {}
    elif part.get('out_channels') == 1 and given.get('num_classes') == 1 and things == 2:
        return {}  # one map of the second of two classes
    return {each: (value, stuff if each == 'num_stuff_classes' else things) for each, value in given.items()}


def _head(part: dict) -> tuple[str, dict[str, Any]]:
    """The name of a head's class, and its default options."""
    kind = part.get('type')
    if isinstance(kind, str):
        with mmengine.registry.MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if not inspect.isclass(kind):
        return str(kind), {}
    calls = [
        vars(each)['__init__'] for each in reversed(kind.__mro__) if '__init__' in vars(each) and each is not object
    ]
    return kind.__name__, {
        each.name: each.default
        for call in calls
        for each in inspect.signature(call).parameters.values()
        if isinstance(each.default, int)
    }
