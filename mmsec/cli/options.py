"""The options in a config, compared with what the classes that it names take."""

import ast
import difflib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmengine.utils import get_object_from_string
from torch import nn

from mmsec.errors import InputError
from mmsec.models.backbones.base import Backbone

_REGISTRIES = [each for each in vars(mmengine.registry).values() if isinstance(each, Registry)]
READ = (
    *(name for name in inspect.signature(Runner.__init__).parameters if name not in ('self', 'cfg')),
    'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval', 'find_unused_parameters',
    'model_wrapper_cfg', 'runner_type', 'strategy', 'sync_bn', 'tta_model', 'tta_pipeline',
)  # fmt: skip
"""The top-level names of a config that MMEngine or a tool reads."""
_NO_TYPES = {'None', 'NoneType', 'Optional', 'Union', 'class', 'typing'}  # words of annotations
_OF_BUILDERS = {  # taken out before a class is called
    '_scope_', 'bg_cls_weight', 'constructor', 'convert_to_iter_based', 'fallback_on_stride', 'name', 'paramwise_cfg',
    'postfix', 'priority', 'requires_grad', 'scale_factor', 'type',
}  # fmt: skip
_REGISTERED = (  # parts whose type, and whose entries' types, must be in a registry; others may mean anything by a type
    'backbone', 'custom_hooks', 'data_preprocessor', 'dataset', 'datasets', 'default_hooks', 'head', 'loss_bbox',
    'loss_cls', 'loss_decode', 'loss_mask', 'model', 'neck', 'norm_cfg', 'optim_wrapper', 'optimizer',
    'param_scheduler', 'pipeline', 'test_evaluator', 'transforms', 'val_evaluator', 'visualizer',
)  # fmt: skip


def check_options(cfg: Config) -> None:
    """Compare each part of a config that has a ``type`` with the class that it names, before anything is built.

    A name that several registries have may take what any of them takes. Nothing is said of a class that takes anything.

    Args:
        cfg (Config): A config of any host.

    Raises:
        InputError: Names the first option or type that does not exist, where it stands, and what is meant or taken.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    for name, parameter in inspect.signature(Runner.__init__).parameters.items():
        _check_value(name, cfg.get(name), [parameter])
    foreign = ' '  # what is in the part of this place is another library's
    for place, part in dicts_of({name: cfg.get(name) for name in READ}):
        if 'type' not in part or place.startswith(foreign):
            continue
        kinds = _named(part['type'], part.get('_scope_') or scope)
        if not kinds:
            _check_type(place, part['type'], scope)
            continue
        if part.get('pretrained') and any(inspect.isclass(kind) and issubclass(kind, Backbone) for kind in kinds):
            raise InputError(
                f'{place}.pretrained is for Python and would be read by tests, too. In a config: '
                f"init_cfg=dict(type='Pretrained', checkpoint={part['pretrained']!r})"
            )
        taken = [_options(kind) for kind in kinds]
        known = list(dict.fromkeys(name for names in taken for name in names or ()))
        for option, value in part.items():
            _check_value(f'{place}.{option}', value, [each[option] for each in map(_known, kinds) if option in each])
        for option in part if None not in taken else ():
            if option not in known and option not in _OF_BUILDERS:
                raise InputError(
                    f'{place}.{option}: {kinds[0].__name__} has no such option. It has {", ".join(known)}.'
                    f'{_close(option, known)}'
                )
        if str(part['type']).endswith(('Albu', 'Albumentations')):
            foreign = f'{place}.'


def dicts_of(node: Any, place: str = '') -> Iterator[tuple[str, dict]]:
    """Every dict in a config, at any depth, with its place as ``--cfg-options`` names it."""
    if isinstance(node, dict):
        yield place, node
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, dict):
        inside = node.items()
    elif isinstance(node, list | tuple):
        inside = enumerate(node)
    for name, value in inside:
        yield from dicts_of(value, f'{place}.{name}' if place else f'{name}')


def _named(name: Any, scope: str) -> list[Callable]:
    """What a type stands for: a class itself, what registries have by that name, or the path of an import."""
    if not isinstance(name, str):
        return [name] if callable(name) else []
    prefix, _, short = name.rpartition('.')
    with suppress(ImportError):
        import_module(f'{prefix or scope}.registry')
    found = []
    for registry in _REGISTRIES:
        own = registry if (prefix or scope) == 'mmengine' else registry.children.get(prefix or scope)
        for each in [own, registry]:
            if each is None:
                continue
            each.import_from_location()
            if short in each.module_dict:
                found.append(each.module_dict[short])
                break
    if prefix and not found:
        found = [each for each in (get_object_from_string(name),) if callable(each)]
    return found


def _check_type(place: str, name: Any, scope: str) -> None:
    """Refuse a type that no registry has, where it must be one."""
    parts = [each for each in place.split('.') if not each.isdigit()]
    if not isinstance(name, str) or not (parts[-1].endswith(_REGISTERED) or parts[-2:-1] == ['default_hooks']):
        return
    registered = {
        each if child.scope in ('mmengine', scope) else f'{child.scope}.{each}'
        for registry in _REGISTRIES
        for child in (registry, *registry.children.values())
        for each in child.module_dict
    }
    raise InputError(
        f"{place}.type: no '{name}' in the registry. Check its spelling, and that custom_imports names its module."
        f'{_close(name, registered)}'
    )


def _check_value(place: str, value: Any, parameters: list[inspect.Parameter]) -> None:
    """Refuse text where every class that has the option is annotated to take numbers, True or False alone."""
    if not isinstance(value, str) or not parameters:
        return
    wanted = [set(re.findall(r'\w+', str(each.annotation))) - _NO_TYPES for each in parameters]
    if all(words and words <= {'bool', 'float', 'int'} for words in wanted):
        raise InputError(f'{place} must be {" or ".join(sorted(set().union(*wanted)))}, got {value!r}')


@cache
def _options(kind: Callable) -> dict[str, inspect.Parameter] | None:
    """Options of a function or class, also those that a class hands on to its bases; None if they cannot be told."""
    calls: list[Any] = [kind]
    if inspect.isclass(kind):
        calls = [vars(each)['__init__'] for each in kind.__mro__ if '__init__' in vars(each)]
    names: dict[str, inspect.Parameter] = {}
    given: set[str] = set()  # by a class to its base
    for call in calls:
        if call in (object.__init__, nn.Module.__init__):
            return names  # they refuse every option
        if hasattr(call, '__wrapped__'):
            return None  # such as a decorator that takes old names
        try:
            parameters = inspect.signature(call).parameters.values()
        except ValueError:
            return None
        own = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        names |= {each.name: each for each in own if each.name not in ('self', *names, *given)}
        rest = [each.name for each in parameters if each.kind is each.VAR_KEYWORD]
        if not rest:
            return names
        handed = _handed_on(call, rest[0])
        if handed is None:
            return None
        given |= handed
    return None


def _known(kind: Callable) -> Mapping[str, inspect.Parameter]:
    """The options of a function or class that can be told."""
    known: Mapping[str, inspect.Parameter] | None = _options(kind)
    with suppress(ValueError):
        known = inspect.signature(kind).parameters if known is None else known
    return known or {}


def _handed_on(call: Callable, rest: str) -> set[str] | None:
    """The options that an ``__init__`` gives its base beside ``**rest``; None if ``rest`` goes anywhere else."""
    try:
        nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(call)))))
    except (OSError, TypeError):
        return None
    uses = [node for node in nodes if isinstance(node, ast.Name) and node.id == rest]
    for node in nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'super().__init__':
            handed = [each.value for each in node.keywords if each.arg is None]
            if handed and handed == uses:
                return {each.arg for each in node.keywords if each.arg}
    return None


def _close(given: str, known: Iterable[str]) -> str:
    """A question for the known name that is closest to what was given, if one is close."""
    without_scope = {name.split('.')[-1]: name for name in sorted(known, key=lambda name: '.' not in name)}
    close = difflib.get_close_matches(given.split('.')[-1], without_scope, n=1)
    return ''.join(f" Did you mean '{without_scope[name]}'?" for name in close)
