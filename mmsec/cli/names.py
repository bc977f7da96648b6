"""The top-level names of a config: which are read, and what became of the others."""

import ast
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmsec.cli.options import READ, dicts_of
from mmsec.errors import InputError

_SHOWN = 6
_BEFORE = {  # names of OpenMMLab before MMEngine
    'checkpoint_config': 'default_hooks.checkpoint',
    'cudnn_benchmark': 'env_cfg.cudnn_benchmark',
    'data': 'train_dataloader, val_dataloader and test_dataloader',
    'dist_params': 'env_cfg.dist_cfg',
    'evaluation': 'train_cfg.val_interval and val_evaluator',
    'fp16': 'optim_wrapper.type',
    'log_config': 'default_hooks.logger',
    'lr_config': 'param_scheduler',
    'optimizer': 'optim_wrapper.optimizer',
    'optimizer_config': 'optim_wrapper',
    'resume_from': 'load_from and resume',
    'runner': 'train_cfg',
    'seed': 'randomness.seed',
    'total_epochs': 'train_cfg.max_epochs',
}


def check_option(cfg: Config, key: str) -> None:
    """Refuse an option of ``--cfg-options`` that would be merged into a place nobody reads."""
    first, *rest = key.split('.')
    if first not in READ:
        if first not in cfg and first not in _BEFORE and not readers(cfg, first, None):
            raise InputError(f"--cfg-options {key}: no '{first}' in the config")
        raise InputError(f'--cfg-options {key}: {_without_effect(cfg, first, cfg.get(first))}')
    node: Any = cfg._cfg_dict
    if first not in node:
        return  # such as randomness.seed or compile: a part of the run that the config leaves at its default
    for i, name in enumerate([first, *rest][:-1]):
        try:
            node = node[int(name)] if isinstance(node, list | tuple) else node[name]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            where = '.'.join([first, *rest][:i]) or 'the config'
            raise InputError(f"--cfg-options {key}: no '{name}' in {where}") from error


def check_names(cfg: Config) -> None:
    """Look for top-level names of a config's files that neither a tool nor the file itself reads.

    What a file computes of a name it computes when it is read: the name in a file that is based on it changes nothing
    of that. A file that is based on no other, such as the one that a run writes, may keep names whose values went
    elsewhere, and files that a host ships keep some; the log names those. Not looked at are names that begin with an
    underscore.

    Raises:
        InputError: Names the first name without effect, and what reads the value instead.
    """
    files = list(_files(Path(cfg.filename)))
    referred = {name for _, tree, _ in files for name in _referred(tree)}
    kept = []
    for path, tree, bases in files:
        loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        for name, line in _assigned(tree):
            if name in READ or name.startswith('_') or name in loaded | referred or name not in cfg:
                continue
            before = [base[name] for base in map(_values, bases) if name in base]
            old = before[0] if before else None
            if cfg[name] in before or (not before and _agrees(cfg, name, by_name=bool(bases))):
                continue
            misspelt = get_close_matches(name, READ, cutoff=0.9)
            if misspelt or _is_old(cfg, name) or (bases and '.mim' not in path.parts):
                raise InputError(f"config '{path}', line {line}: {_without_effect(cfg, name, old)}")
            kept.append(name)
    if kept:
        print_log(f"config '{cfg.filename}': nothing reads {', '.join(kept)}", 'current', logging.WARNING)


def readers(cfg: Config, name: str, value: Any) -> list[str]:
    """The places that are read which are called as a name is, or hold the value that it had."""
    named, equal = [], []
    for place, part in _parts(cfg):
        for key, inside in part.items():
            where = f'{place}.{key}' if place else key
            if place and key == name:
                named.append(where)
            elif _holds(inside, value):
                equal.append(where)
    number = value is None or isinstance(value, bool | int | float)
    return named if number and named else [*named, *equal]


def _without_effect(cfg: Config, name: str, old: Any) -> str:
    """Why a name has no effect, and what to set instead."""
    why = f'nothing reads {name}'
    found = readers(cfg, name, old)
    if name in _BEFORE:
        return f'{why}, which had a meaning before MMEngine; set {_BEFORE[name]}'
    if found:
        more = ', ...' if len(found) > _SHOWN else ''
        return f'{why} by this name; set what is read: {", ".join(found[:_SHOWN])}{more}'
    close = get_close_matches(name, READ, n=1, cutoff=0.75)
    return why + (f". Did you mean '{close[0]}'?" if close else ', neither the tools nor the rest of the config')


def _is_old(cfg: Config, name: str) -> bool:
    """Whether a name had a meaning before MMEngine, and what has it now is missing."""
    return name in _BEFORE and re.split(r'\W', _BEFORE[name])[0] not in cfg


def _agrees(cfg: Config, name: str, by_name: bool) -> bool:
    """Whether something that is read has the value of a name: one called as it is, or, unless ``by_name``, any."""
    called = [part[name] for place, part in _parts(cfg) if place and name in part]
    if called or by_name:
        return cfg[name] in called
    return bool(readers(cfg, name, cfg[name]))


def _parts(cfg: Config) -> Iterator[tuple[str, dict]]:
    """The dicts of a config that are read, with their places."""
    return dicts_of({name: cfg.get(name) for name in READ})


def _holds(inside: Any, value: Any) -> bool:
    """Whether a value of a config is another, or a path in it."""
    if isinstance(value, str) and isinstance(inside, str):
        return inside == value or (len(value) > 3 and inside.startswith(value))
    return value is not None and type(inside) is type(value) and inside == value


def _files(path: Path) -> Iterator[tuple[Path, ast.Module, list[Path]]]:
    """A config's file and those it is based on, at any depth, each with the ones it is based on directly."""
    tree = ast.Module([], [])
    with suppress(SyntaxError):  # such as JSON
        tree = ast.parse(path.read_text())
    bases = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_':
            with suppress(ValueError):
                given = ast.literal_eval(node.value)
                names = [given] if isinstance(given, str) else given
                bases += [Path(Config._get_cfg_path(name, str(path))[0]) for name in names]
        if isinstance(node, ast.With) and 'read_base' in ast.unparse(node.items[0]):
            for each in node.body:
                if isinstance(each, ast.ImportFrom) and each.level:
                    bases.append(path.parents[each.level - 1] / f'{(each.module or "").replace(".", "/")}.py')
    bases = [base for base in bases if base.is_file()]
    yield path, tree, bases
    for base in bases:
        yield from _files(base)


def _assigned(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The names that a file sets at its top level, and the line of each."""
    for statement in tree.body:
        for target in statement.targets if isinstance(statement, ast.Assign) else ():
            for node in ast.walk(target):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id, statement.lineno


def _referred(tree: ast.Module) -> Iterator[str]:
    """The names of its bases that a file uses: ``_base_.name``, also inside a string."""
    yield from re.findall(r'_base_\s*\.\s*(\w+)', ast.unparse(tree))


def _values(path: Path) -> Config:
    """The values of a file that another one is based on."""
    return Config.fromfile(path, import_custom_modules=False)
