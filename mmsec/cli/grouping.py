"""``--grouping NAME key=value ...`` of a command line -> a grouping in a config."""

import argparse
import ast
from collections.abc import Sequence

from mmengine.config import Config

from mmsec.errors import InputError
from mmsec.ops.grouping import GROUPINGS

_COUNTS = ('num_clusters', 'cluster_size', 'carriers')


def add_grouping(parser: argparse.ArgumentParser, action: str = 'store') -> None:
    """Give a command line the option ``--grouping``; :func:`grouping_of` reads what it holds."""
    parser.add_argument(
        '--grouping',
        nargs='+',
        action=action,
        metavar=('NAME', 'KEY=VALUE'),
        help=f'one of {", ".join(sorted(GROUPINGS))}, and its options',
    )


def grouping_of(words: Sequence[str]) -> dict:
    """The words ``NAME key=value ...`` as a backbone takes a grouping; refuses what does not exist."""
    name, *options = words
    config: dict = {'type': name}
    for option in options:
        key, found, value = option.partition('=')
        if not found:
            raise InputError(f'--grouping {name}: options are given as key=value, got {option!r}')
        try:
            config[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            config[key] = value  # a word such as interleaved
    try:
        GROUPINGS.build(config)
    except ValueError as error:
        raise InputError(f'--grouping: {error}') from error
    return config


def backbone_options(text: str) -> dict:
    """Options of a backbone that groups as a text says, such as 'WindowGrouping shift=True num_clusters=32,8,2,1'."""
    words = text.split()
    if not words:
        raise InputError('a grouping must have a name, got nothing')
    counts = [word for word in words[1:] if word.partition('=')[0] in _COUNTS]
    options: dict = {'grouping': grouping_of([word for word in words if word not in counts])}
    for word in counts:
        key, _, value = word.partition('=')
        try:
            options[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError) as error:
            raise InputError(f'{key} must be numbers such as 32,8,2,1, got {value!r}') from error
    return options


def set_grouping(cfg: Config, words: Sequence[str] | None) -> None:
    """Let the backbone of a config group as the command line says; without words, as the config says."""
    if words:
        cfg.model.backbone = dict(cfg.model.get('backbone') or {}, grouping=grouping_of(words))
