"""Time what mmsec computes beside baselines, by turns in one run: `benchmark.py SUBCOMMAND --help` says how.

Sides take turns, after two calls of each that warm up. Printed and written are medians and spread of the rounds, and
ratios to the first side. Machines differ and are noisy: only ratios of one run mean anything.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import benchmark_backbones as whole
import benchmark_parts as parts
import torch
from baselines import BASELINES, DTYPES
from matplotlib.figure import Figure

from mmsec.cli.grouping import add_grouping
from mmsec.cli.machine import machine
from mmsec.engine.files import to_json
from mmsec.engine.processes import run
from mmsec.models import ClusTR, SecViT

DOCS = Path(__file__).parents[2] / 'docs'
TABLE = {  # of `make bench`: file name -> subcommand
    'inference against the reference': 'backbone --against reference --share',
    'training step against the reference': 'backbone --mode train --shape 512 512 --batch 2 --against reference',
    'inference against Swin-T': 'backbone --clusters size --against swin_t --share',
    'inference against Swin-T, both compiled': 'backbone --clusters size --compile --against swin_t',
    'four times the tokens': 'backbone --clusters size --shape 1024 1024 --against quarter',
    'bfloat16 against float32, clusters of 98': 'backbone --clusters size --dtype bfloat16 --against float32',
    'bfloat16 against float32, published counts': 'backbone --dtype bfloat16 --against float32',
    **{f'size {side}': f'backbone --clusters size --shape {side} {side} --against published swin_t'
       for side in (256, 512, 768, 1024)},
}  # fmt: skip
GPU_TABLE = {  # of `make bench-gpu`: what `make tune-gpu` does not measure
    'optimizer': 'optimizer',
    **{f'detector {mode} {batch} {dtype}': f'detector --mode {mode} --batch {batch} --dtype {dtype}'
       for batch in (2, 8) for mode in ('infer', 'train') for dtype in DTYPES},
    **{f'backbone {mode} {batch} {dtype} {clusters}':
       f'backbone --mode {mode} --batch {batch} --dtype {dtype} --clusters {clusters} --against {baseline}'
       for batch in (2, 8) for mode in ('infer', 'train') for dtype in ('float32', 'tf32', 'float16')
       for clusters, baseline in (('published', 'reference'), ('size', 'swin_t'))},
}  # fmt: skip


SHARED: dict[str, dict] = {  # options of several subcommands
    'json': dict(type=Path, metavar='OUT', help='write all figures to this file'),
    'repeats': dict(type=int, default=7, help='timed rounds (default: %(default)s)'),
    'arch': dict(choices=sorted(SecViT.arch_zoo), default='small', help='of SecViT (default: %(default)s)'),
    'shape': dict(
        type=int, nargs=2, metavar=('H', 'W'), default=(800, 1344), help='of an image (default: %(default)s)'
    ),
    'batch': dict(type=int, default=1, help='images at a time (default: %(default)s)'),
    'mode': dict(choices=('infer', 'train'), default='infer', help='train: forward and backward'),
    'dtype': dict(choices=DTYPES, default='float32', help='16 bits by autocast (default: %(default)s)'),
    'device': dict(default='cuda' if torch.cuda.is_available() else 'cpu', help='default: %(default)s'),
    'threads': dict(type=int, default=torch.get_num_threads(), help='default: %(default)s'),
    'minutes': dict(type=float, metavar='M', help='start nothing new after so long'),
}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subcommands = parser.add_subparsers(required=True, metavar='SUBCOMMAND')

    def add(name: str, function: Callable[..., dict | None], options: str) -> argparse.ArgumentParser:
        said = str(function.__doc__)
        each = subcommands.add_parser(name, help=said, description=said)
        each.set_defaults(function=function, refuse=each.error)
        for option in options.split():
            each.add_argument(f'--{option}', **SHARED[option])
        return each

    one = add('backbone', whole.backbone, 'arch shape batch mode dtype device repeats json')
    one.add_argument('--clusters', choices=whole.CLUSTERS, default='published', help='size: 98 tokens in each cluster')
    add_grouping(one)
    one.add_argument('--graph', dest='mode', action='store_const', const='graph', help='inference, as a CUDA graph')
    one.add_argument('--compile', action='store_true', help='torch.compile, of the baseline too unless it is "eager"')
    said = '; '.join(f'{name}: {what}' for name, (what, _) in BASELINES.items())
    one.add_argument('--against', choices=BASELINES, nargs='*', default=['reference'], metavar='BASELINE', help=said)
    one.add_argument('--share', action='store_true', help='also: clustering as a share of the attention layers')

    several = add('backbones', whole.backbones, 'shape device repeats json')
    example = "\"PiToMe: dict(type='mmsec.ViT', arch='base', merging=dict(type='PiToMe'))\""
    several.add_argument('backbones', nargs='+', metavar='NAME: dict(...)', help=f'as in a config, such as {example}')
    several.add_argument('--image', help='for distances (default: noise)')
    several.add_argument('--plot', type=Path, metavar='OUT', help='draw distance against speed')

    grouped = add('groupings', whole.groupings, 'arch shape batch mode device repeats json')
    add_grouping(grouped, 'append')
    grouped.add_argument('--alone', action='store_true', help='leave the whole backbone out')
    grouped.set_defaults(arch='tiny')

    merged = add('merging', whole.merging, 'device repeats json')
    merged.add_argument('config', help='config of a model with a ViT')
    example = '"half: dict(type=\'ToMeSD\', ratio=0.5)"'
    merged.add_argument('--merging', nargs='+', required=True, metavar='NAME: dict(...)', help=f'such as {example}')
    merged.add_argument('--sizes', nargs='+', default=['512x512'], metavar='HxW', help='of images (default: 512x512)')

    peaks = add('density-peaks', parts.density_peaks, 'shape batch repeats json')
    peaks.add_argument('--arch', choices=sorted(ClusTR.arch_zoo), help='of ClusTR (default: %(default)s)')
    peaks.set_defaults(arch='b2', shape=(224, 224))

    add('detector', parts.detector, 'arch shape batch mode dtype device repeats json')
    waiting = add('threads', parts.threads, 'shape batch repeats json')
    waiting.add_argument('--busy', type=int, nargs='+', default=[0, 2], help='busy processes beside (default: 0 2)')
    waiting.set_defaults(shape=(128, 128), batch=4)
    add('optimizer', parts.optimizer, 'arch device repeats json')

    exported = add('onnx', parts.onnx, 'shape threads repeats json')
    exported.add_argument('config', help='config of a segmentor; of any host with --backbone')
    exported.add_argument('--backbone', action='store_true', help='the backbone alone')
    exported.add_argument('--against', choices=parts.ONNX[1:], nargs='+', default=parts.ONNX[1:], help='default: both')

    for name, function in (('all', measure_all), ('gpu', measure_gpu)):
        each = add(name, function, 'minutes repeats')
        each.add_argument('--out', type=Path, default=DOCS / 'performance', help='folder (default: %(default)s)')
        each.set_defaults(repeats=5)
    args = parser.parse_args(arguments)
    for name in ('batch', 'repeats', 'threads'):
        if getattr(args, name, 1) < 1:
            args.refuse(f'--{name} must be at least 1, got {getattr(args, name)}')
    if min(getattr(args, 'shape', [32])) < 32:
        args.refuse(f'--shape must be at least 32 32, got {args.shape[0]} {args.shape[1]}')
    if wrong := [size for size in getattr(args, 'sizes', ()) if not re.fullmatch(r'\d+x\d+', size)]:
        args.refuse(f'--sizes must be such as 800x1344, got {wrong[0]}')
    if getattr(args, 'mode', None) == 'graph' and args.device == 'cpu':
        args.refuse('a CPU has no CUDA graphs: --graph needs a GPU')
    return args


def measure_table(table: dict[str, str], prefix: str, args: argparse.Namespace, keep: bool) -> dict[str, Path]:
    """Run the subcommands of a table, a JSON file each; with ``keep`` not those whose file is there."""
    files, start = {}, time.monotonic()
    for name, command in table.items():
        path = args.out / f'{prefix}{name.replace(",", "").replace(" ", "_")}.json'
        files[name] = path
        if keep and path.is_file():
            continue
        if args.minutes is not None and time.monotonic() - start > 60 * args.minutes:
            print('the time is up; the same command goes on')
            break
        print(f'\n$ python tools/analysis_tools/benchmark.py {command}', flush=True)
        main([*command.split(), '--repeats', str(args.repeats), '--json', str(path)])
    return files


def measure_all(args: argparse.Namespace) -> None:
    """Measure the table of docs/performance.md on the CPU, and draw its plot: `make bench`."""
    files = measure_table(TABLE, '', args, keep=False)
    plot = args.out.parent / 'images/performance.png'
    draw({name: json.loads(path.read_text()) for name, path in files.items() if name.startswith('size')}, plot)
    print(f'\nplot: {plot}, figures: {args.out}')


def measure_gpu(args: argparse.Namespace) -> None:
    """Measure on a GPU what `make tune-gpu` does not: detectors, the optimizer, other precisions.

    A file for each row is written; those that are there are not measured again.
    """
    if not torch.cuda.is_available():
        args.refuse('no CUDA device here; each subcommand takes --device cpu')
    slug = re.sub(r'\W+', '_', torch.cuda.get_device_name()).lower()
    measure_table(GPU_TABLE, f'gpu_{slug}/', args, keep=True)


def draw(results: dict[str, dict], path: Path) -> None:
    """Time and memory against image size."""
    figure = Figure(figsize=(9, 3.6), dpi=120, layout='constrained')
    left, right = figure.subplots(1, 2)
    sides = [result['sides']['secvit']['settings']['shape'][0] for result in results.values()]
    labels = {'published': 'published counts', 'secvit': 'clusters of 98', 'swin_t': 'Swin-T'}
    for name, label in labels.items():
        rows = [result['sides'][name] for result in results.values()]
        left.plot(sides, [row['seconds_median'] for row in rows], marker='o', label=label)
        right.plot(sides, [row['peak_bytes'] / 2**20 for row in rows], marker='o', label=label)
    for axes, title in ((left, 'seconds per image'), (right, 'peak memory, MiB')):
        axes.set(title=title, xlabel='side of a square image, pixels', xticks=sides, ylim=(0, None))
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(axis='y', alpha=0.3)
    left.legend(frameon=False)
    where = next(iter(results.values()))['machine']
    said = f'SecViT-S and Swin-T, inference, float32, {where["threads"]} cores of {where["cpu"]}'
    figure.suptitle(said, fontsize='medium')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand, and write what it found."""
    args = parse_args(arguments)
    where = machine() | ({'gpu': None} if getattr(args, 'device', 'cpu') == 'cpu' else {})
    print(', '.join(f'{key} {value}' for key, value in where.items()))
    found = args.function(args)
    if found and args.json:
        settings = {name: value for name, value in vars(args).items() if name not in ('function', 'refuse', 'json')}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(to_json({'machine': where, 'settings': settings, **found}, 2) + '\n')


if __name__ == '__main__':
    run(main)
