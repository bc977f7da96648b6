"""Time the ViT of docs/evidence.md with each merging that it is tested with, by turns in one run, a process for each.

Times do not depend on weights. The images are noise of the same sizes as the test images, which the row names.
"""

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from benchmark_backbone import Worker, machine, serve
from benchmark_backbones import build
from evidence_runs import DATA, MERGING_TIMES, ROOT, config_of, merging_times, mergings, vit_row
from rich.progress import track
from torch import Tensor
from training_rows import revision, write_json

from mmsec.cli.config import load_config
from mmsec.engine.processes import run as run_tool
from mmsec.errors import InputError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', nargs='+', choices=DATA, default=list(DATA), help='default: all')
    parser.add_argument('--repeats', type=int, default=3, help='timed rounds (default: %(default)s)')
    parser.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'docs/evidence',
        metavar='DIR',
        help='where the rows are; writes merging_times.json there (default: %(default)s)',
    )
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f'--repeats must be at least 1, got {args.repeats}')
    return args


def prepared(task: dict) -> Callable[[], tuple[Tensor, ...]]:
    """A function that runs a backbone on one image of noise: of each size in turn, one size a call."""
    model = build(task['config'])
    images = itertools.cycle([torch.randn(1, 3, *shape) for shape in task['shapes']])

    @torch.no_grad()
    def run() -> tuple[Tensor, ...]:
        return model(next(images))

    return run


def images_of(out: Path, data: str) -> dict[str, int]:
    """How many test images have which size, ``HxW``, as the row of the ViT says.

    Raises:
        InputError: If there is no such row.
    """
    row = vit_row(out, data)
    if row is None:
        raise InputError(
            f"'{out / 'backbones.json'}' has no finished run of '{config_of('vit_s', data).stem}'; run evidence.py "
            '--section merging first, or name the --data that have one'
        )
    return row['images']


def measure(configs: Mapping[str, dict], sizes: Sequence[str], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of backbones, by turns: by name and size, one for each round.

    Args:
        configs (Mapping[str, dict]): Backbones by name.
        sizes (Sequence[str]): Of the images, ``HxW``.
        repeats (int): Rounds.
    """
    shapes = [[int(side) for side in size.split('x')] for size in sizes]
    tasks = {name: json.dumps({'config': config, 'shapes': shapes}) for name, config in configs.items()}
    workers = {name: Worker([sys.executable, __file__, '--worker', task]) for name, task in tasks.items()}
    for worker in workers.values():
        for _ in sizes[2:]:  # a worker has run the first two: every size is run once before it is timed
            worker.turn()
    found: dict[str, dict[str, list[float]]] = {name: {size: [] for size in sizes} for name in configs}
    for size in track([*sizes] * repeats, f'{repeats} rounds of {len(sizes)} sizes'):
        for name, worker in workers.items():
            found[name][size].append(worker.turn())
    for worker in workers.values():
        worker.end()
    return found


def mean_seconds(seconds: Mapping[str, Sequence[float]], images: Mapping[str, int]) -> float:
    """Seconds for an image, the mean over images of these sizes; of each size the median of the rounds."""
    return sum(statistics.median(seconds[size]) * number for size, number in images.items()) / sum(images.values())


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    if args.worker:
        return serve(prepared(json.loads(args.worker)))
    content = merging_times(args.out)
    for data, images in {data: images_of(args.out, data) for data in args.data}.items():
        backbone = load_config(str(ROOT / config_of('vit_s', data))).model.backbone.to_dict()
        configs = {name: backbone | {'merging': options} for name, options in mergings(data).items()}
        rounds = measure(configs, list(images), args.repeats)
        means = {name: mean_seconds(seconds, images) for name, seconds in rounds.items()}
        content[data] = {'machine': machine(), 'git': revision(), 'images': images, 'seconds': means, 'rounds': rounds}
        print(f'{data}, an image of the test data, the mean over {sum(images.values())}:')
        first = next(iter(means.values()))
        for name, mean in means.items():
            print(f'  {name}: {mean:.3f} s, {mean / first:.2f} of the first')
    write_json(args.out / MERGING_TIMES, content)


if __name__ == '__main__':
    run_tool(main)
