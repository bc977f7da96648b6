"""Time a SecViT backbone beside something else, by turns in one run, each side in a process of its own."""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from reference import published_forward
from swin import swin_transformer

from mmsec.cli.grouping import add_grouping, grouping_of
from mmsec.engine.processes import run as run_tool
from mmsec.models import SecViT
from mmsec.ops import Tokens
from mmsec.ops.attention import row_indices, take_rows
from mmsec.ops.kernels import cpu

DTYPES = {'float32': torch.float32, 'tf32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
RIVALS = {
    'reference': 'the published computation, step by step, with the same weights',
    'swin_t': "mmdetection's Swin-T",
    'eager': 'itself, not compiled',
    'plain': 'itself without what mmsec.ops.kernels.cpu.optimize does',
    'float32': 'itself in float32',
    'quarter': 'itself on an image of half the height and width, a quarter of the tokens',
    'published': 'itself with the published cluster counts',
    'semantic': 'itself with the published grouping, whatever --grouping says',
}


class Side(NamedTuple):
    """One of the things compared; ``model`` is 'secvit', 'plain', 'reference' or 'swin_t'."""

    model: str
    arch: str
    shape: tuple[int, int]
    batch: int
    clusters: str
    mode: str
    dtype: str
    compile: bool
    device: str
    grouping: dict = dict(type='SemanticGrouping')  # never mutated


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='rivals:\n' + '\n'.join(f'  {name:<10} {what}' for name, what in RIVALS.items()),
    )
    parser.add_argument('--arch', choices=sorted(SecViT.arch_zoo), default='small', help='default: %(default)s')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), default=(800, 1344), help='default: 800 1344')
    parser.add_argument('--batch', type=int, default=1, help='images at a time (default: %(default)s)')
    parser.add_argument(
        '--clusters',
        choices=('published', 'size'),
        default='published',
        help='published counts, or 98 tokens per cluster (default: %(default)s)',
    )
    add_grouping(parser)
    parser.add_argument('--mode', choices=('infer', 'train'), default='infer', help='train: forward and backward')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='16 bits by autocast (default: %(default)s)')
    parser.add_argument('--compile', action='store_true', help='torch.compile, of the rival too unless it is "eager"')
    parser.add_argument('--against', choices=RIVALS, nargs='*', default=['reference'], help='default: reference')
    parser.add_argument('--share', action='store_true', help='also: clustering as a share of the attention layers')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='default: %(default)s')
    parser.add_argument('--repeats', type=int, default=7, help='timed rounds (default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all figures to this file')
    parser.add_argument('--peak-of', type=json.loads, help=argparse.SUPPRESS)  # the process that measures memory
    parser.add_argument('--worker', type=json.loads, help=argparse.SUPPRESS)  # the process that runs one side
    args = parser.parse_args()
    for name in ('batch', 'repeats'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1, got {getattr(args, name)}')
    if min(args.shape) < 32:
        parser.error(f'--shape must be at least 32 32, got {args.shape[0]} {args.shape[1]}')
    return args


def rival_of(side: Side, name: str) -> Side:
    """What ``side`` is compared with under one of :data:`RIVALS`."""
    if name in ('reference', 'swin_t', 'plain'):
        return side._replace(model=name)
    if name == 'eager':
        return side._replace(compile=False)
    if name == 'float32':
        return side._replace(dtype='float32')
    if name == 'published':
        return side._replace(clusters='published')
    if name == 'semantic':
        return side._replace(grouping=dict(type='SemanticGrouping'))
    return side._replace(shape=(side.shape[0] // 2, side.shape[1] // 2))


def secvit(side: Side) -> SecViT:
    """The backbone of a side."""
    clusters = dict(cluster_size=98) if side.clusters == 'size' else {}
    return SecViT(side.arch, drop_path_rate=0.0, grouping=side.grouping, **clusters)


def forward_of(side: Side) -> tuple[torch.nn.Module, Callable[[torch.Tensor], Sequence[torch.Tensor]], torch.Tensor]:
    """The model of ``side`` on its device, the function of images that is timed, and such images."""
    torch.manual_seed(0)
    model = swin_transformer()(drop_path_rate=0.0) if side.model == 'swin_t' else secvit(side)
    model.to(side.device).train(side.mode == 'train')
    images = torch.randn(side.batch, 3, *side.shape, device=side.device)
    forward = model
    if side.model == 'secvit' and side.device == 'cpu' and not side.compile:
        cpu.optimize(model)
    if side.model == 'reference':
        forward = lambda x: published_forward(model, x)  # noqa: E731
    if side.compile:
        forward = torch.compile(forward, dynamic=False)
    return model, forward, images


def precision(dtype: str, device: str, cache_enabled: bool = True) -> AbstractContextManager:
    """The context of a forward pass in ``dtype``, one of :data:`DTYPES`; sets TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == 'tf32'
    if DTYPES[dtype] == torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, DTYPES[dtype], cache_enabled=cache_enabled)


def prepare(side: Side) -> Callable[[], None]:
    """A function that runs ``side`` once, its model and images made beforehand, and waits for the device."""
    model, forward, images = forward_of(side)
    autocast = precision(side.dtype, side.device)

    def run() -> None:
        with torch.set_grad_enabled(side.mode == 'train'):
            with autocast:
                maps = forward(images)
            if side.mode == 'train':
                model.zero_grad(set_to_none=True)
                sum(m.float().mean() for m in maps).backward()
        if images.is_cuda:
            torch.cuda.synchronize()

    return run


def interleaved(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run; after a warm-up each round times every side once."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run()
        run()
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_bytes(side: Side) -> int:
    """Most memory that one run of ``side`` holds above model, images and gradients; call it in a fresh process."""
    run = prepare(side)
    if side.device != 'cpu':
        run()  # libraries keep what they allocate at first use
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    return peak_of(run)


def peak_of(run: Callable[[], object]) -> int:
    """Bytes that a function holds at most on the CPU, above what is there before; call it in a fresh process."""
    run()  # libraries keep what they allocate at first use
    ctypes.CDLL('libc.so.6').malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')  # resets the kernel's high-water mark of this process
    before = _resident('VmHWM')
    run()
    return _resident('VmHWM') - before


def _resident(field: str) -> int:
    """A memory field of /proc/self/status in bytes."""
    status = Path('/proc/self/status').read_text()
    return int(status.split(f'{field}:')[1].split()[0]) * 1024


def measure_peak(side: Side) -> int:
    """:func:`peak_bytes` of ``side`` in a fresh process."""
    command = [sys.executable, __file__, '--peak-of', json.dumps(side)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


class Worker:
    """A side in a process of its own, where no other side's allocations change how fast its own memory comes."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.turn()  # the first two runs are the warm-up
        self.turn()

    def turn(self) -> float:
        """Seconds of one run; the other sides wait."""
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(self.process.wait() or 1)  # its error is on the screen
        return float(line)

    def end(self) -> None:
        """Let the process go."""
        self.process.stdin.close()
        self.process.wait()


def work(side: Side) -> None:
    """Be a :class:`Worker`: a run for each line that comes in."""
    serve(prepare(side))


def serve(run: Callable[[], object]) -> None:
    """Time a run for each line that comes in."""
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def compare(side: Side, rivals: dict[str, Side], repeats: int) -> dict:
    """Seconds, spread and peak memory of ``side`` and its rivals, and each rival's ratio to ``side``."""
    sides = {'secvit': side, **rivals}
    workers = {name: Worker([sys.executable, __file__, '--worker', json.dumps(each)]) for name, each in sides.items()}
    rounds = [{name: worker.turn() for name, worker in workers.items()} for _ in range(repeats)]
    for worker in workers.values():
        worker.end()
    result = {}
    for name, each in sides.items():
        times = sorted(seconds[name] for seconds in rounds)
        result[name] = {
            'settings': each._asdict(),
            'seconds_median': statistics.median(times),
            'seconds_min': times[0],
            'seconds_max': times[-1],
            'peak_bytes': measure_peak(each),
        }
    for name in rivals:
        for key in ('seconds_median', 'peak_bytes'):
            result[name][f'{key}_ratio'] = result[name][key] / result['secvit'][key]
    return result


def clustering_share(side: Side, repeats: int) -> dict:
    """Time of clustering (scores, sort, moving tokens there and back) in the attention layers, and of those layers."""
    backbone = secvit(side).to(side.device).eval()
    height, width = side.shape
    total = {'clustering': 0.0, 'attention_layers': 0.0}
    for stage, stride in zip(backbone.stages, backbone.strides, strict=True):
        size = -(-height // stride), -(-width // stride)
        num_tokens, layer = size[0] * size[1], stage.blocks[0].attn
        num_clusters = stage.clusters_for(num_tokens)
        x = torch.randn(side.batch, *size, layer.out_proj.in_features, device=side.device)
        rotary = stage.rotary(*size, x)
        tokens = x.flatten(1, 2).unflatten(-1, (layer.num_heads, -1))  # (B, N, h, d)

        def cluster(layer=layer, tokens=tokens, size=size, num_clusters=num_clusters) -> None:
            if num_clusters == 1:
                return
            given = Tokens(torch.stack([tokens] * 3, dim=2), tokens, size)
            index, inverse = row_indices(layer.grouping(given, num_clusters))
            rows = take_rows(index, inverse, *[tokens.flatten(0, 2)] * 3)
            take_rows(inverse, index, rows[0])

        def attend(layer=layer, x=x, rotary=rotary) -> None:
            layer(x, rotary)

        with torch.no_grad():
            seconds = interleaved({'clustering': cluster, 'attention_layers': attend}, repeats)
        for name in total:
            total[name] += statistics.median(seconds[name]) * len(stage.blocks)
    return {**total, 'share': total['clustering'] / total['attention_layers']}


def machine() -> dict:
    """What the figures were measured on."""
    names = [
        line.split(':')[1].strip() for line in Path('/proc/cpuinfo').read_text().splitlines() if 'model name' in line
    ]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {'cpu': names[0], 'threads': torch.get_num_threads(), 'gpu': gpu, 'torch': torch.__version__}


def main() -> None:
    """Measure and print."""
    args = parse_args()
    if args.peak_of or args.worker:
        side = Side(*(args.peak_of or args.worker))
        side = side._replace(shape=tuple(side.shape))
        if args.worker:
            work(side)
        else:
            print(peak_bytes(side))
        return
    shape = tuple(args.shape)
    side = Side('secvit', args.arch, shape, args.batch, args.clusters, args.mode, args.dtype, args.compile, args.device)
    if args.grouping:
        side = side._replace(grouping=grouping_of(args.grouping))
    sides = compare(side, {name: rival_of(side, name) for name in args.against}, args.repeats)
    result = {'machine': machine(), 'sides': sides}
    print(', '.join(map(str, side)))
    for name, row in sides.items():
        low, median, high = (row[f'seconds_{key}'] * 1e3 for key in ('min', 'median', 'max'))
        print(f'  {name:<10} {median:9.1f} ms ({low:.1f} to {high:.1f}), peak {row["peak_bytes"] / 2**20:8.1f} MiB')
    if args.share:
        result['clustering'] = clustering_share(side, args.repeats)
        print(f'  clustering is {result["clustering"]["share"]:.1%} of the attention layers')
    for name in args.against:
        time_ratio, memory_ratio = (sides[name][f'{key}_ratio'] for key in ('seconds_median', 'peak_bytes'))
        print(f'  {name} takes {time_ratio:.2f} times as long and {memory_ratio:.2f} times the memory')
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    run_tool(main)
