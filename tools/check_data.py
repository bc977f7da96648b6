"""Look at every file of a config's data: what is in them, what a run leaves out and why, and what it cannot use."""

import argparse
import sys

from mmengine.config import DictAction

from mmsec.cli.config import load_config
from mmsec.cli.data import look_at_data
from mmsec.datasets.findings import table
from mmsec.engine.processes import run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    return parser.parse_args()


def main() -> None:
    """Look, and print what was found."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    splits = [split for split in ('train', 'val', 'test') if cfg.get(f'{split}_dataloader')]
    if all(cfg.get(f'test_{part}') == cfg.get(f'val_{part}') for part in ('dataloader', 'evaluator')):
        splits.remove('test')
    found = look_at_data(cfg, *splits, whole=True)
    print(table(found, shown=None))
    refused = [reason for each in found for reason in each.refused]
    for reason in refused:
        print(f'error: {reason}', file=sys.stderr)
    if refused:
        sys.exit(1)


if __name__ == '__main__':
    run(main)
