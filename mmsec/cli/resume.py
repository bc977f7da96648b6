"""A folder of checkpoints -> the one that a run goes on from."""

import ast
import difflib
import logging
import pprint
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmsec.engine.hooks.atomic_checkpoint import ROLLING
from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint

# What a run cannot change without being another run. Lengths, intervals and data roots may change.
_SAME = ('default_scope', 'model', 'optim_wrapper', 'param_scheduler')
_SHOWN = 30


def newest_whole_checkpoint(work_dir: str | Path) -> tuple[str, dict] | None:
    """Path and ``meta`` of the checkpoint that was written last and is whole, if there is one; the log names others.

    The pointer file ``last_checkpoint`` is not asked: what it names may be damaged, or not the newest.

    Raises:
        InputError: If there are checkpoints and none of them is whole.
    """
    paths = [path for pattern in ('epoch_*.pth', 'iter_*.pth', ROLLING) for path in Path(work_dir).glob(pattern)]
    newest: InputError | KeyError | None = None
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            return str(path), read_checkpoint(path)['meta']
        except (InputError, KeyError) as error:
            newest = newest or error
            print_log(f'{error}; an older checkpoint is looked for', 'current', logging.ERROR)
    if paths:
        raise InputError(
            f"none of the {len(paths)} checkpoints in '{work_dir}' can be read; to start anew, move them. "
            f'The newest: {newest}'
        )
    return None


def go_on(cfg: Config, path: str, meta: dict) -> None:
    """Make a config go on from a checkpoint, with its seed, so that the samples still come in the same order."""
    cfg.load_from, cfg.resume = path, True
    if meta.get('seed') is not None:
        cfg.randomness = {'seed': meta['seed']} | cfg.get('randomness', {})


def check_same_run(cfg: Config, path: str, meta: dict) -> None:
    """Refuse to go on from a checkpoint of another model, optimizer or schedule, and show the difference."""
    try:
        then, now = (_sections(text) for text in (meta['cfg'], cfg.pretty_text))
    except (SyntaxError, ValueError) as error:
        raise InputError(f"the config inside '{path}' cannot be read: {error}") from error
    lines: list[str] = []
    for name in _SAME:
        old, new = (pprint.pformat(part.get(name), width=100).splitlines() for part in (then, now))
        lines += difflib.unified_diff(old, new, f'{name} of the checkpoint', f'{name} now', lineterm='', n=1)
    if lines:
        shown = '\n'.join(lines[:_SHOWN] + (['...'] if len(lines) > _SHOWN else []))
        raise InputError(
            f"'{path}' was made by another config; use another --work-dir, or --resume {path} to go on all the same. "
            f'The difference:\n{shown}'
        )


def _sections(text: str) -> dict[str, Any]:
    """The top-level values of a config's text, which is read and not executed."""
    values = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            if not isinstance(target, ast.Name):
                raise ValueError(f'line {node.lineno} assigns to no name')
            values[target.id] = _value(node.value)
    return values


def _value(node: ast.expr | None) -> Any:
    """A literal, also one that calls ``dict``."""
    if node is None:
        raise ValueError('a dict is unpacked into another')
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        value = dict(_value(node.args[0])) if node.args else {}
        return value | {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(each) for each in node.elts]
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):
        return node.id
    return ast.literal_eval(node)
