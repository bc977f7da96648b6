"""Time onnxruntime beside torch, eager and compiled, on the CPU, by turns in one run, each in a process of its own."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mmsec.cli.config import load_config
from mmsec.cli.deployment import deployable
from mmsec.engine.processes import run
from mmsec.export import export, require_packages, session

SIDES = ('onnxruntime', 'eager', 'compiled')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', metavar='CONFIG', help='config file of a segmentor; of any host with --backbone')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), required=True, help='size of the image')
    parser.add_argument('--backbone', action='store_true', help='the backbone alone')
    parser.add_argument('--against', choices=SIDES[1:], nargs='+', default=SIDES[1:], help='default: both')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help='default: %(default)s')
    parser.add_argument('--repeats', type=int, default=7, help='timed rounds (default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all figures to this file')
    parser.add_argument('--worker', choices=SIDES, help=argparse.SUPPRESS)  # the process that runs one side
    args = parser.parse_args()
    for name in ('threads', 'repeats'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1, got {getattr(args, name)}')
    if min(args.shape) < 32:
        parser.error(f'--shape must be at least 32 32, got {args.shape[0]} {args.shape[1]}')
    return args


@torch.no_grad()
def prepare(args: argparse.Namespace) -> Callable[[], object]:
    """A function that runs one side once."""
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model, names = deployable(load_config(args.config), None, args.backbone)
    images = torch.randn(1, 3, *args.shape)
    if args.worker == 'onnxruntime':
        ready = session(export(model, images, names).content, args.threads)
        return lambda: ready.run(None, {'images': images.numpy()})
    forward = torch.compile(model, dynamic=False) if args.worker == 'compiled' else model
    return lambda: forward(images)


def work(args: argparse.Namespace) -> None:
    """Be one side: after two runs for warming up, a run for each line that comes in."""
    once = prepare(args)
    with torch.no_grad():
        once()
        once()
        print('ready', flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            once()
            print(time.perf_counter() - start, flush=True)


def answer(worker: subprocess.Popen) -> str:
    """The next line that a side prints, but for what its log says."""
    for line in worker.stdout or ():
        if line == 'ready\n' or (line[0].isdigit() and line.strip().replace('.', '').replace('e-', '').isdigit()):
            return line
    raise SystemExit(worker.wait() or 1)  # its error is on the screen


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each side in each round."""
    command = [sys.executable, __file__, *sys.argv[1:], '--worker']
    workers = {}
    for side in (SIDES[0], *args.against):  # one after the other, so that no side is made ready while another runs
        workers[side] = subprocess.Popen([*command, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer(workers[side])
    seconds: dict[str, list[float]] = {side: [] for side in workers}
    for _ in range(args.repeats):
        for side, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write('\n')
            worker.stdin.flush()
            seconds[side].append(float(answer(worker)))
    for worker in workers.values():
        worker.communicate()
    return seconds


def main() -> None:
    """Measure and print."""
    args = parse_args()
    require_packages()
    if args.worker:
        work(args)
        return
    seconds = measure(args)
    print(f'{args.config}, 1x3x{args.shape[0]}x{args.shape[1]}, {args.threads} threads, {args.repeats} rounds')
    fastest = statistics.median(seconds['onnxruntime'])
    for side, times in seconds.items():
        median = statistics.median(times)
        print(
            f'  {side:<12} {median * 1e3:9.1f} ms ({min(times) * 1e3:.1f} to {max(times) * 1e3:.1f}), '
            f'{median / fastest:.2f} times as long as onnxruntime'
        )
    if args.json:
        settings = {name: getattr(args, name) for name in ('config', 'shape', 'backbone', 'threads', 'repeats')}
        content = {'torch': torch.__version__, 'settings': settings, 'seconds': seconds}
        args.json.write_text(json.dumps(content, indent=2) + '\n')


if __name__ == '__main__':
    run(main)
