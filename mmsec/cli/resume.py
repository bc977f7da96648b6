"""A folder of checkpoints -> the one that a run goes on from."""

import ast
import contextlib
import difflib
import logging
import pprint
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmsec.cli.options import dicts_of
from mmsec.engine.hooks.atomic_checkpoint import ROLLING
from mmsec.engine.work_dir import peek
from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint

# What a run cannot change without being another run. Lengths, intervals and data roots may change.
_SAME = ('default_scope', 'model', 'optim_wrapper', 'param_scheduler')
_SHOWN = 30


def newest_whole_checkpoint(work_dir: str | Path) -> tuple[str, dict] | None:
    """Path and ``meta`` of the checkpoint that is whole and the furthest of its run, if there is one.

    The run is that of the save to which the file ``last_checkpoint`` points: a folder may hold checkpoints of earlier
    ones. Of them the one of the most iterations is taken, not the one of the latest clock. The log names those that are
    damaged, and one that is newer by the clock.

    Raises:
        InputError: If there are checkpoints and none of them is whole.
    """
    folder = Path(work_dir)
    found = {path: clock for path in _checkpoints(folder) if (clock := _clock(path)) is not None}
    metas = {path: peek(path).get('meta', {}) for path in found}
    run = None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        run = metas.get(folder / Path((folder / 'last_checkpoint').read_text().strip()).name, {}).get('run')
    ordered = sorted(found, key=lambda path: (_progress(path, metas[path], run), found[path]), reverse=True)
    newest: InputError | KeyError | None = None
    for path in ordered:
        try:
            meta = read_checkpoint(path)['meta']
        except (InputError, KeyError) as error:
            if _clock(path) is None:  # another process has deleted it
                del found[path]
                continue
            newest = newest or error
            print_log(f'{error}; an older checkpoint is looked for', 'current', logging.ERROR)
            continue
        later = max(ordered[ordered.index(path) :], key=lambda other: found[other])
        if found[later] > found[path]:
            print_log(
                f"'{path}' is gone on from; '{later}' was written later and is not as far in this run",
                'current',
                logging.WARNING,
            )
        return str(path), meta
    if found:
        raise InputError(
            f"none of the {len(found)} checkpoints in '{work_dir}' can be read; to start anew, move them. "
            f'The newest: {newest}'
        )
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The files that a run may go on from."""
    return [path for pattern in ('epoch_*.pth', 'iter_*.pth', ROLLING) for path in folder.glob(pattern)]


def _clock(path: Path) -> int | None:
    """When a file was written, in nanoseconds; None if it is not there, as behind a dangling link."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _progress(path: Path, meta: dict, run: str | None) -> tuple[bool, float, float]:
    """How far a checkpoint is, by what it says, or by its name where it says nothing; one of another run is behind."""
    if not meta:
        kind, _, step = path.stem.partition('_')
        steps = float(step) if step.isdecimal() else float('inf')  # what else is damaged is named first
        return True, *((steps, 0.0) if kind == 'epoch' else (0.0, steps))
    epoch, iteration = (value if isinstance(value := meta.get(name), int) else 0 for name in ('epoch', 'iter'))
    return run in (None, meta.get('run')), epoch, iteration


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


def options_of(cfg: Config) -> dict[str, Any]:
    """The options of a config by name, without the work dir: that of the first process is used."""
    options = {}
    for place, node in dicts_of(cfg.to_dict()):
        for name, value in node.items():
            inside = value if isinstance(value, list | tuple) else [value]
            if not any(isinstance(each, dict) for each in inside):
                options[f'{place}.{name}'.removeprefix('.')] = getattr(value, '__qualname__', value)
    options.pop('work_dir', None)
    return options


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
