"""A misspelt option in a config -> one line that names it."""

import difflib
import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry, build_from_cfg

from mmsec.cli.config import dicts_of
from mmsec.errors import InputError


@contextmanager
def naming_misspelt_options(cfg: Config) -> Iterator[None]:
    """Turn what building a part of the config raises for a misspelt option, type or value into one line that names it.

    Every other error passes as it is, so that no bug is mistaken for a misspelling: the option or type must stand in
    the config, the class must not take the option, and a value must be refused by a ``raise`` of mmsec's own.

    Args:
        cfg (Config): What models, data sets, hooks or optimizers are built of inside.

    Raises:
        InputError: Where in the config it stands, what was given, and what would be taken.
    """
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        builds = [frame for frame in frames if frame.f_code is build_from_cfg.__code__]
        message = _message(cfg, error, builds[-1], frames[-1]) if builds else None
        if message is None:
            raise
        raise InputError(message) from error


def _message(cfg: Config, error: Exception, build: FrameType, last: FrameType) -> str | None:
    """What to say of an error, or None if it is no misspelling.

    Args:
        cfg (Config): The config.
        error (Exception): The error.
        build (FrameType): The innermost call of MMEngine's ``build_from_cfg``.
        last (FrameType): Where the error was raised.
    """
    found: list[Any] = [build.f_locals.get(name) for name in ('cfg', 'registry', 'obj_cls')]
    part, registry, kind = found
    if isinstance(error, KeyError):
        return _unknown_type(cfg, str(error), registry, last)
    if isinstance(error, TypeError):
        return _unknown_option(cfg, str(error), registry, part, kind)
    line = traceback.extract_tb(error.__traceback__)[-1].line or ''
    if last.f_globals['__name__'].startswith('mmsec.') and line.startswith('raise '):
        return f'{_place(cfg, part.get("type")) or kind.__name__}: {error}'
    return None


def _unknown_type(cfg: Config, message: str, registry: Registry, last: FrameType) -> str | None:
    """What to say of a type that is not in a registry of MMEngine or, for norms and convolutions, of mmcv."""
    if not re.search('is not in the .* registry|Cannot find .* in registry', message):
        return None
    names = [last.f_locals[name] for name in ('obj_type', 'layer_type', 'padding_type') if name in last.f_locals]
    place = _place(cfg, names[0]) if names else None
    if place is None:
        return None
    known = [*registry.root.module_dict, *registry.module_dict]
    known += [f'{scope}.{name}' for scope, child in registry.root.children.items() for name in child.module_dict]
    return (
        f"{place}.type: no {names[0]!r} in the registry '{registry.name}'. Check its spelling, and that custom_imports "
        f'names its module.{_close(names[0], known)}'
    )


def _unknown_option(cfg: Config, message: str, registry: Registry, part: dict, kind: Callable) -> str | None:
    """What to say of an option that a part of the config, or one inside it such as ``norm_cfg``, does not take."""
    found = re.search(r"got an unexpected keyword argument '(\w+)'", message)
    if not found:
        return None
    option = found[1]
    for _, node in dicts_of(part):
        owner = kind if node is part else registry.get(node['type']) if isinstance(node.get('type'), str) else None
        place = _place(cfg, node.get('type'), option)
        if option in node and owner and place is not None:
            known = _options(owner)
            if option not in known:
                name = owner.__name__
                return f'{place}.{option}: {name} has no such option. It has {", ".join(known)}.{_close(option, known)}'
    return None


def _options(kind: Callable) -> list[str]:
    """The options of a function or class, also those that a class hands on to its bases."""
    calls = (
        [vars(each)['__init__'] for each in kind.__mro__ if '__init__' in vars(each)]
        if inspect.isclass(kind)
        else [kind]
    )
    names: list[str] = []
    for call in calls:
        parameters = inspect.signature(call).parameters.values()
        own = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        names += [name for name in own if name != 'self' and name not in names]
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return names


def _place(cfg: Config, kind: object, option: str | None = None) -> str | None:
    """Dotted name of the first part of a config that has this type and, if one is given, this option."""
    for place, node in dicts_of(cfg._cfg_dict):
        if node.get('type') == kind and (option is None or option in node):
            return place
    return None


def _close(given: str, known: Iterable[str]) -> str:
    """A question for the known name that is closest to what was given, if one is close."""
    without_scope = {name.split('.')[-1]: name for name in sorted(known, key=lambda name: '.' not in name)}
    close = difflib.get_close_matches(given.split('.')[-1], without_scope, n=1)
    return ''.join(f" Did you mean '{without_scope[name]}'?" for name in close)
