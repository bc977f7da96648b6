"""Measure what docs/performance.md says of a GPU: `make bench-gpu` runs it on the device it finds.

Figures are written as they come: a run that is stopped goes on where it was when it is started again. To measure anew,
delete the JSON file.
"""

import argparse
import copy
import gc
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from benchmark_backbone import DTYPES, Side, forward_of, machine, precision, prepare
from mmengine.logging import MMLogger
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmsec.engine.optimizers import BFloat16OptimWrapper

ROOT = Path(__file__).parents[2]
NOT_MEASURED = 'not measured'
SECTIONS = ('backbone', 'graph', 'attention', 'optimizer', 'detector', 'compiled')
# name -> model, clusters; the second of each pair is what the first is compared with
SIDES = {
    'published counts': ('secvit', 'published'),
    'reference': ('reference', 'published'),
    'clusters of 98': ('secvit', 'size'),
    'Swin-T': ('swin_t', 'published'),
}
PAIRS = (('published counts', 'reference'), ('clusters of 98', 'Swin-T'))
BACKENDS = {'flash': 'FLASH_ATTENTION', 'cuDNN': 'CUDNN_ATTENTION', 'efficient': 'EFFICIENT_ATTENTION'}
OPTIMIZERS = {
    'a group for each parameter': ('DefaultOptimWrapperConstructor', False),
    'a group for each parameter, fused': ('DefaultOptimWrapperConstructor', True),
    'merged': ('mmsec.MergedOptimWrapperConstructor', False),
    'merged, fused': ('mmsec.MergedOptimWrapperConstructor', True),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/performance', help='folder (default: %(default)s)')
    parser.add_argument('--sections', nargs='+', choices=SECTIONS, default=SECTIONS, help='default: all')
    parser.add_argument('--arch', default='small', help='SecViT (default: %(default)s)')
    parser.add_argument('--shapes', nargs='+', default=['800x1344', '512x512'], help='HxW (default: %(default)s)')
    parser.add_argument('--batches', nargs='+', type=int, default=[1, 2, 8], help='default: %(default)s')
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=list(DTYPES), help='default: %(default)s')
    parser.add_argument('--device', default='cuda', help='default: %(default)s')
    parser.add_argument('--repeats', type=int, default=10, help='timed rounds (default: %(default)s)')
    parser.add_argument('--minutes', type=float, help='start nothing new after so long (default: no limit)')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)  # the process that measures
    args = parser.parse_args()
    if wrong := [shape for shape in args.shapes if not re.fullmatch(r'\d+x\d+', shape)]:
        parser.error(f'--shapes must be such as 800x1344, got {wrong[0]}')
    if min(args.repeats, *args.batches) < 1:
        parser.error(f'--repeats and --batches must be at least 1, got {args.repeats} and {args.batches}')
    if args.device == 'cpu' and list(args.sections) == ['graph']:
        parser.error('a CPU has no CUDA graphs: --sections graph needs --device cuda')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('no CUDA device here; --device cpu tries the tool on a CPU')
    return args


def cells(args: argparse.Namespace) -> dict[str, dict]:
    """What is to be measured, by name: the most wanted first."""
    shapes = [tuple(map(int, shape.split('x'))) for shape in args.shapes]
    common = {'arch': args.arch, 'device': args.device, 'repeats': args.repeats}
    found = {}
    for section in SECTIONS:
        if section not in args.sections or (section == 'graph' and args.device == 'cpu'):
            continue
        if section == 'optimizer':
            found[section] = {'section': section, **common}
            continue
        dtypes = args.dtypes
        if section == 'attention':
            modes, batches = ('training',), args.batches[:1]
            dtypes = [dtype for dtype in dtypes if args.device == 'cpu' or dtype in ('bfloat16', 'float16')]
        else:
            modes = ('inference',) if section == 'graph' else ('inference', 'training')
            batches = args.batches[:1] if section == 'compiled' else args.batches
        for shape, batch, mode, dtype in itertools.product(shapes, batches, modes, dtypes):
            name = f'{section}, {mode}, {batch}x3x{shape[0]}x{shape[1]}, {dtype}'
            found[name] = {
                'section': section, 'mode': mode, 'shape': shape, 'batch': batch, 'dtype': dtype, **common,
            }  # fmt: skip
    return found


def measure(cell: dict) -> dict[str, dict]:
    """Rows of one cell, by name: seconds, or why there are none."""
    makers = {
        'backbone': backbone_sides,
        'compiled': backbone_sides,
        'graph': backbone_sides,
        'attention': attention_sides,
        'optimizer': optimizer_sides,
        'detector': detector_sides,
    }
    return by_turns(makers[cell['section']](cell), cell['device'], cell['repeats'])


def by_turns(makers: dict[str, Callable[[], Callable[[], None]]], device: str, repeats: int) -> dict[str, dict]:
    """Time things side by side: make and warm up each, then let them take turns.

    Args:
        makers (dict[str, Callable]): Name -> what makes the function to time.
        device (str): Where they run.
        repeats (int): Timed rounds.

    Returns:
        dict[str, dict]: 'first_seconds' of the first call, 'seconds' (the median), and 'peak_bytes' above what was
        there before on a GPU; or 'error' alone, for one that does not fit in memory or cannot run.
    """
    runs: dict[str, Callable[[], None]] = {}
    rows: dict[str, dict] = {}
    for name, make in makers.items():
        try:
            runs[name], rows[name] = warm_up(make, device)
        except RuntimeError as error:  # torch's error for want of memory is one, too
            rows[name] = {'error': describe(error)}
        if name not in runs:
            release(device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        rows[name] |= {'seconds': statistics.median(seconds), 'range': [min(seconds), max(seconds)]}
    return rows


def warm_up(make: Callable[[], Callable[[], None]], device: str) -> tuple[Callable[[], None], dict]:
    """Make a function and call it twice; what was seen in that."""
    run = make()
    start = time.perf_counter()
    run()
    row = {'first_seconds': time.perf_counter() - start}
    if device == 'cuda':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    run()
    if device == 'cuda':
        row['peak_bytes'] = torch.cuda.max_memory_allocated() - before
    return run, row


def describe(error: RuntimeError) -> str:
    """An error in a few words."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return 'out of memory'
    return text.splitlines()[0].split('. ')[0][:100]


def release(device: str) -> None:
    """Give memory back; ends in an error if the device can no longer be used."""
    gc.collect()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def start_anew(device: str) -> None:
    """Forget what was measured and compiled: torch compiles one function for eight models at most, and then no more."""
    torch.compiler.reset()
    release(device)


def synchronised(run: Callable[[], object], device: str) -> Callable[[], None]:
    """``run``, which then waits for the device."""

    def both() -> None:
        run()
        if device == 'cuda':
            torch.cuda.synchronize()

    return both


def backbone_sides(cell: dict) -> dict[str, Callable]:
    """Backbones alone, against the reference and Swin-T."""
    mode = 'infer' if cell['mode'] == 'inference' else 'train'
    shape, compiled = tuple(cell['shape']), cell['section'] == 'compiled'
    sides = {
        name: Side(model, cell['arch'], shape, cell['batch'], clusters, mode, cell['dtype'], compiled, cell['device'])
        for name, (model, clusters) in SIDES.items()
    }
    make = captured if cell['section'] == 'graph' else prepare
    return {name: lambda side=side: make(side) for name, side in sides.items()}


def captured(side: Side) -> Callable[[], None]:
    """A function that replays the inference of ``side``, captured as a CUDA graph: no kernel is launched by Python."""
    _, forward, images = forward_of(side)
    with torch.no_grad(), precision(side.dtype, side.device, cache_enabled=False):  # a cache would be captured
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                forward(images)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            maps = forward(images)
    held = forward, images, maps  # whose memory the graph reads and writes

    def replay(graph=graph, held=held) -> None:
        graph.replay()

    return synchronised(replay, side.device)


def attention_sides(cell: dict) -> dict[str, Callable]:
    """PyTorch's attention kernels on the clusters of each stage; the first call of a shape includes its plan."""
    from mmsec.models import SecViT

    settings = SecViT.arch_zoo[cell['arch']]
    makers = {}
    for stage, (dims, heads) in enumerate(zip(settings['embed_dims'], settings['num_heads'], strict=True)):
        tokens = -(-cell['shape'][0] // (4 << stage)) * -(-cell['shape'][1] // (4 << stage))
        for clusters in ((32, 8, 2, 1)[stage], -(-tokens // 98)):
            shape = (cell['batch'] * heads, clusters, tokens // clusters, dims // heads)
            if 0 in shape:
                continue
            for name, backend in BACKENDS.items():
                label = f'{shape[0] * shape[1]} clusters of {shape[2]} tokens, {name}'
                makers[label] = lambda shape=shape, backend=backend: attention(cell, shape, backend)
    return makers


def attention(cell: dict, shape: tuple[int, ...], backend: str) -> Callable[[], None]:
    """Forward and backward of one kernel."""
    options = dict(device=cell['device'], dtype=DTYPES[cell['dtype']], requires_grad=True)
    q, k, v = (torch.randn(shape, **options) for _ in range(3))

    def run() -> None:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            torch.autograd.grad(out.sum(), (q, k, v))

    return synchronised(run, cell['device'])


def config(cell: dict, clusters: str = 'published', swin: bool = False):
    """The Mask R-CNN config of an arch, or with Swin-T in its place, from random weights."""
    from mmsec.cli.config import load_config

    cfg = load_config(str(ROOT / f'configs/mmdet/secvit_{cell["arch"][0]}_maskrcnn.py'))
    if swin:
        cfg.model.backbone = dict(type='mmdet.SwinTransformer')  # its defaults are Swin-T
        cfg.model.neck.in_channels = [96, 192, 384, 768]
        return cfg
    cfg.model.backbone.init_cfg = None
    if clusters == 'size':
        cfg.model.backbone.cluster_size = 98
    return cfg


def build(cfg, device: str) -> nn.Module:
    """Its model, in training mode."""
    from mmengine.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(cfg.model).to(device).train()


def optimizer_sides(cell: dict) -> dict[str, Callable]:
    """The optimizer's step of Mask R-CNN, with the groups as MMEngine makes them and as mmsec does."""
    from mmengine.optim import build_optim_wrapper

    cfg = config(cell)
    model = build(cfg, cell['device'])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def maker(constructor: str, fused: bool) -> Callable[[], None]:
        settings = copy.deepcopy(cfg.optim_wrapper)
        settings.constructor, settings.optimizer.fused = constructor, fused
        return synchronised(build_optim_wrapper(model, settings).optimizer.step, cell['device'])

    return {name: lambda each=each: maker(*each) for name, each in OPTIMIZERS.items()}


def detector_sides(cell: dict) -> dict[str, Callable]:
    """Whole Mask R-CNN from random weights: predictions, or a training step with its optimizer."""
    makers = {}
    for name, (model, clusters) in SIDES.items():
        if model != 'reference':
            makers[name] = lambda swin=model == 'swin_t', clusters=clusters: detector(
                cell, config(cell, clusters, swin)
            )
    return makers


def detector(cell: dict, cfg) -> Callable[[], None]:
    """A function that runs it once."""
    from mmdet.testing import demo_mm_inputs
    from mmengine.optim import build_optim_wrapper

    device = cell['device']
    model = build(cfg, device)
    training = cell['mode'] == 'training'
    shapes = [[3, *cell['shape']]] * cell['batch']
    data = demo_mm_inputs(cell['batch'], shapes, num_items=[8] * cell['batch'], num_classes=80, with_mask=True)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    scaler = torch.amp.GradScaler(device, enabled=cell['dtype'] == 'float16')
    bfloat16 = BFloat16OptimWrapper(optimizer=wrapper.optimizer)

    def context() -> AbstractContextManager:
        plain = precision(cell['dtype'], device)  # sets TF32, too
        return bfloat16.optim_context(model) if cell['dtype'] == 'bfloat16' else plain

    def step() -> None:
        with context():  # as mmsec.BFloat16OptimWrapper and MMEngine's AmpOptimWrapper do
            batch = model.data_preprocessor(copy.deepcopy(data), True)
            loss, _ = model.parse_losses(model(**batch, mode='loss'))
        scaler.scale(loss).backward()
        scaler.step(wrapper.optimizer)
        scaler.update()
        wrapper.optimizer.zero_grad()

    def predict() -> None:
        with torch.no_grad(), context():
            model.test_step(copy.deepcopy(data))

    model.train(training)
    return synchronised(step if training else predict, device)


def work() -> None:
    """Measure a cell for each line that comes in, and answer with a line of JSON."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what libraries print is no answer
    MMLogger.get_instance('benchmark_gpu', log_level='ERROR')
    for line in sys.stdin:
        cell = json.loads(line)
        try:
            rows = measure(cell)
        except RuntimeError as error:
            rows = {'all': {'error': describe(error)}}
        print(json.dumps(rows), file=answers, flush=True)
        start_anew(cell['device'])


class Measurer:
    """A process that measures; where it dies, the next cell gets a new one."""

    process: subprocess.Popen | None = None

    def measure(self, cell: dict) -> dict[str, dict]:
        """Rows of a cell; see :func:`measure`."""
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, __file__, '--worker', '--device', cell['device']]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.process.stdin.write(json.dumps(cell) + '\n')
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ''
        return json.loads(answer) if answer else {'all': {'error': f'the process died, code {self.process.wait()}'}}

    def end(self) -> None:
        """Let the process go."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()


def shown(rows: dict[str, dict], name: str, images: int | None = None) -> str:
    """A figure of a table: milliseconds, images per second, or why there is none."""
    row = rows.get(name) or rows.get('all') or {}
    if 'seconds' not in row:
        return f'{NOT_MEASURED}: {row["error"]}' if 'error' in row else NOT_MEASURED
    return f'{images / row["seconds"]:.1f}' if images else f'{row["seconds"] * 1e3:.2f}'


def ratio(rows: dict[str, dict], ours: str, other: str, key: str) -> str:
    """How many times the figure of ``ours`` the other's is."""
    values = [rows.get(name, {}).get(key) for name in (ours, other)]
    return f'{values[1] / values[0]:.2f}' if all(values) else NOT_MEASURED


def tables(result: dict) -> str:
    """All figures as markdown."""
    where = result['machine']
    device = where['gpu'] or f'{where["threads"]} cores of {where["cpu"]}'
    lines = [f'# {device}, torch {where["torch"]}', '']
    times = [f'{other} / {ours}' for ours, other in PAIRS]
    head = {
        'backbone': [*SIDES, *times, *(f'{pair}, memory' for pair in times)],
        'graph': [*SIDES, *times],
        'compiled': [*SIDES, *times],
        'detector': [name for name in SIDES if name != 'reference'],
        'optimizer': ['ms'],
        'attention': [*(f'{name}, ms' for name in BACKENDS), *(f'{name}, first call' for name in BACKENDS)],
    }
    titles = {
        'backbone': f'SecViT {result["arch"]}, milliseconds',
        'graph': f'SecViT {result["arch"]}, milliseconds, all captured as CUDA graphs',
        'compiled': f'SecViT {result["arch"]}, milliseconds, all under torch.compile',
        'detector': f'Mask R-CNN with SecViT {result["arch"]} or Swin-T, images per second',
        'optimizer': "The optimizer's step of Mask R-CNN",
        'attention': 'Attention inside clusters, forward and backward, milliseconds',
    }
    for section in SECTIONS:
        lines += ['', f'## {titles[section]}', '', '| | ' + ' | '.join(head[section]) + ' |']
        lines.append('|' + '---|' * (len(head[section]) + 1))
        cells_ = {name: rows for name, rows in result['cells'].items() if name.split(',')[0] == section}
        if not cells_:
            lines.append(f'| {NOT_MEASURED} |' + ' |' * len(head[section]))
        for name, rows in cells_.items():
            label = name.removeprefix(f'{section}, ')
            if section == 'optimizer':
                lines += [f'| {each} | {shown(rows, each)} |' for each in OPTIMIZERS]
            elif section == 'attention':
                for shape in dict.fromkeys(key.rsplit(', ', 1)[0] for key in rows):
                    keys = [f'{shape}, {each}' for each in BACKENDS]
                    first = [rows.get(key, {}).get('first_seconds') for key in keys]
                    values = [shown(rows, key) for key in keys]
                    values += [f'{each * 1e3:.2f}' if each else NOT_MEASURED for each in first]
                    lines.append(f'| {label.split(", ")[-1]}, {shape} | ' + ' | '.join(values) + ' |')
            else:
                images = int(label.split(', ')[1].split('x')[0]) if section == 'detector' else None
                values = [shown(rows, each, images) for each in head[section] if each in SIDES]
                if section != 'detector':
                    values += [ratio(rows, *pair, 'seconds') for pair in PAIRS]
                if section == 'backbone':
                    values += [ratio(rows, *pair, 'peak_bytes') for pair in PAIRS]
                lines.append(f'| {label} | ' + ' | '.join(values) + ' |')
    return '\n'.join(lines) + '\n'


def draw(result: dict, path: Path) -> None:
    """Ratios of time to the reference and Swin-T, over the cells of backbones."""
    from matplotlib import pyplot as plt

    plt.switch_backend('Agg')
    figure, axes = plt.subplots(figsize=(9, 4.5), layout='constrained')
    for ours, other in PAIRS:
        points = {
            name.removeprefix('backbone, '): rows[other]['seconds'] / rows[ours]['seconds']
            for name, rows in result['cells'].items()
            if name.startswith('backbone,') and all('seconds' in rows.get(side, {}) for side in (ours, other))
        }
        axes.plot(points.keys(), points.values(), marker='o', linestyle='', label=f'{other} / {ours}')
    axes.axhline(1, color='grey', linewidth=0.8)
    axes.set_title('times as fast')
    axes.set_yscale('log', base=2)
    axes.yaxis.set_major_formatter('{x:g}')
    axes.tick_params(axis='x', rotation=90, labelsize='x-small')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False)
    figure.suptitle(f'{result["machine"]["gpu"] or result["machine"]["cpu"]}, SecViT {result["arch"]}')
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure what is not measured yet, write the figures after each cell."""
    args = parse_args()
    if args.worker:
        work()
        return
    where = machine() if args.device == 'cuda' else machine() | {'gpu': None}
    slug = re.sub(r'\W+', '_', where['gpu'] or args.device).lower()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'gpu_{slug}.json'
    result = json.loads(path.read_text()) if path.exists() else {}
    if {key: result.get(key) for key in ('machine', 'arch')} != {'machine': where, 'arch': args.arch}:
        result = {'machine': where, 'arch': args.arch, 'cells': {}}  # of another machine, or the first
    measurer, start = Measurer(), time.monotonic()
    wanted = {name: cell for name, cell in cells(args).items() if name not in result['cells']}
    for name, cell in wanted.items():
        if args.minutes and time.monotonic() - start > 60 * args.minutes:
            print('the time is up; the same command goes on')
            break
        result['cells'][name] = rows = measurer.measure(cell)
        print(name, *(f'  {each}: {shown(rows, each)}' for each in rows), sep='\n', flush=True)
        path.write_text(json.dumps(result, indent=2) + '\n')
    measurer.end()
    path.with_suffix('.md').write_text(tables(result))
    try:
        draw(result, path.with_suffix('.png'))
    except ImportError as error:
        print(f'no plot: {error}')
    print(f'figures: {path}, table: {path.with_suffix(".md")}, plot: {path.with_suffix(".png")}')


if __name__ == '__main__':
    main()
