"""Cells of tune_gpu.py that look at whole backbones: sets of kernels, rivals, image sizes, merging, compilation."""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from baselines import Side, forward_of, precision, prepare
from timing import by_turns, release, seconds_of, synchronised
from torch import Tensor, nn
from tune_kernels import distance

from mmsec import ops
from mmsec.models import ViT
from mmsec.ops.kernels.table import use_table
from mmsec.ops.merging import MERGINGS

ROOT = Path(__file__).parents[2]
_SIDES = {
    'clusters of 98': ('secvit', 'size'),
    'clusters of 98, without kernels': ('secvit', 'size'),
    'Swin-T': ('swin_t', 'published'),
    'published counts': ('secvit', 'published'),
    'published code': ('reference', 'published'),
}
_BOUND = 'test_backbone_is_as_near_to_the_float64_reference_as_its_precision_allows'

Make = Callable[[], Callable[[], Any]]


def side_of(cell: dict, name: str, mode: str) -> Side:
    """One of :data:`_SIDES`, for 'inference', 'training' or a 'graph' of inference."""
    model, counts = _SIDES[name]
    short = {'inference': 'infer', 'training': 'train'}.get(mode, mode)
    shape, compiled = tuple(cell['shape']), cell.get('compile', False)
    return Side(model, cell['arch'], shape, cell['images'], counts, short, cell['dtype'], compiled, cell['device'])


@contextmanager
def _kernels(content: dict) -> Iterator[None]:
    """These kernels and tiles; what is raised becomes a RuntimeError, as :func:`by_turns` expects it."""
    try:
        with use_table(content):
            yield
    except RuntimeError:
        raise
    except Exception as error:
        raise RuntimeError(f'{type(error).__name__}: {error}') from error


def under(content: dict, make: Make) -> Make:
    """Make and run something with these kernels and tiles."""

    def maker() -> Callable[[], Any]:
        with _kernels(content):
            run = make()

        def both() -> None:
            with _kernels(content):
                run()

        return both

    return maker


def kernel_set(cell: dict) -> dict:
    """SecViT with and without one more kernel, by turns, in inference and training; and how far maps are apart.

    Args:
        cell (dict): 'kernels' so far and the 'added' one, and 'tiles'.
    """
    sets = {'without': cell['kernels'], 'with': [*cell['kernels'], cell['added']]}
    tables = {name: {'kernels': kernels, 'tiles': cell['tiles']} for name, kernels in sets.items()}
    result: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for mode in ('inference', 'training'):
            side = side_of(cell, 'clusters of 98', mode)
            makers = {name: under(content, lambda side=side: prepare(side)) for name, content in tables.items()}
            result[mode] = by_turns(makers, cell['device'], cell['rounds'])
            release(cell['device'])
        side = side_of(cell, 'clusters of 98', 'inference')
        model, _, images = forward_of(side)
        model.eval()
        maps = {name: maps_of(model, images, side, content) for name, content in (tables | {'plain': {}}).items()}
        maps['float32'] = maps_of(model, images, side._replace(dtype='float32'), {})
        with use_table(tables['with']), torch.no_grad(), precision(side.dtype, side.device):
            result['explained'] = ops.explain(model, images)
    said = {str(each.message) for each in caught if 'plain torch takes its place' in str(each.message)}
    wanted = {name: [each.double() for each in maps[name]] for name in ('plain', 'float32')}
    return result | {
        'distance': distance(maps['with'], wanted['plain']),
        'plain_distance': distance(maps['plain'], wanted['float32']),
        'failed': sorted(said),
    }


def maps_of(model: nn.Module, images: Tensor, side: Side, content: dict) -> list[Tensor]:
    """The maps of a model with these kernels."""
    with use_table(content), torch.no_grad(), precision(side.dtype, side.device):
        return [each.float() for each in model(images)]


def rivals(cell: dict) -> dict:
    """SecViT with the chosen kernels beside Swin-T, the published code and itself without kernels, by turns."""
    plain = {'kernels': [], 'tiles': {}}
    makers = {}
    for name in cell['sides']:
        side = side_of(cell, name, 'graph' if cell['graph'] else cell['mode'])
        content = plain if 'without' in name else cell['table']
        makers[name] = under(content, lambda side=side: prepare(side, cell.get('backend', 'inductor')))
    return by_turns(makers, cell['device'], cell['rounds'])


def visits(cell: dict) -> dict:
    """Seconds of the first and the second training step at each of many unseen sizes.

    Stops before the next size where 'seconds' are over.
    """
    name, device = cell['side'], cell['device']
    side = side_of(cell, name, 'training')
    model, forward, _ = forward_of(side)
    start = time.monotonic()
    row: dict[str, list] = {'sizes': [], 'first': [], 'second': []}
    with use_table({} if 'without' in name else cell['table']):
        for height, width in [cell['shape'], *cell['sizes']]:  # the first for what is compiled once
            if time.monotonic() - start > cell['seconds']:
                break
            images = torch.randn(side.batch, 3, height, width, device=device)

            def step(images: Tensor = images) -> None:
                with precision(side.dtype, device):
                    loss = sum(each.float().mean() for each in forward(images))
                model.zero_grad(set_to_none=True)
                loss.backward()

            row['sizes'].append([height, width])
            for visit in ('first', 'second'):
                synchronised(lambda: None, device)()
                row[visit].append(seconds_of(synchronised(step, device)))
    warm = {visit: row[visit].pop(0) for visit in ('first', 'second')}
    row['sizes'].pop(0)
    medians = {f'{visit}_median': statistics.median(row[visit]) for visit in warm if row[visit]}
    return row | medians | {'warm_up': warm}


def merging(cell: dict) -> dict:
    """A ViT in inference, with each way of merging tokens and with none, by turns."""
    options: dict[str, dict | None] = {'none': None}
    options |= {name: {'type': name} | cell['options'].get(name, {}) for name in MERGINGS}

    def make(merged: dict | None) -> Callable[[], None]:
        torch.manual_seed(0)
        model = ViT(cell['arch'], drop_path_rate=0.0, merging=merged).to(cell['device']).eval()
        images = torch.randn(cell['images'], 3, *cell['shape'], device=cell['device'])

        def run() -> None:
            with torch.no_grad(), precision(cell['dtype'], cell['device']):
                model(images)

        return synchronised(run, cell['device'])

    makers = {name: under(cell['table'], lambda each=each: make(each)) for name, each in options.items()}
    return by_turns(makers, cell['device'], cell['rounds']) | {'options': options}


def regional(cell: dict) -> dict:
    """SecViT in inference with each block compiled for all sizes, beside eager with kernels: seconds and graphs."""
    from torch._dynamo.utils import counters

    side, device = side_of(cell, 'clusters of 98', 'inference'), cell['device']
    compiled, eager = (forward_of(side)[0].eval() for _ in range(2))
    for stage in compiled.stages:
        for block in stage.blocks:
            block.compile(dynamic=True, backend=cell['backend'])
    counters.clear()
    rows = {}
    for height, width in cell['sizes']:
        images = torch.randn(side.batch, 3, height, width, device=device)

        def run(model: nn.Module, images: Tensor = images) -> None:
            with torch.no_grad(), precision(side.dtype, device):
                model(images)

        sides = {
            name: under(content, lambda model=model, run=run: synchronised(lambda: run(model), device))
            for name, model, content in (('compiled', compiled, {}), ('eager', eager, cell['table']))
        }
        rows[f'{side.batch}x3x{height}x{width}'] = by_turns(sides, device, cell['rounds'])
        graphs = counters['stats']['unique_graphs']
        rows[f'{side.batch}x3x{height}x{width}']['compiled']['graphs'] = graphs
    return rows


def bound(cell: dict) -> dict:
    """What tests/gpu says of the distance from float64, float32 above all: its exit code and last lines."""
    command = [sys.executable, '-m', 'pytest', '-rs', 'tests/gpu', '-p', 'no:cacheprovider', *cell['options']]
    paths = filter(None, (os.environ.get('PYTHONPATH'), str(ROOT)))
    environment = os.environ | {'MMSEC_TEST_DEVICE': cell['device'], 'PYTHONPATH': os.pathsep.join(paths)}
    return outside([*command, '-k', _BOUND], environment, cell['left'])


def outside(command: list[str], environment: dict[str, str], seconds: float) -> dict:
    """Exit code, None where the time was up, and last lines of a command, which is ended with all that it started."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=max(1.0, seconds))
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, code = process.communicate()[0], None
    return {'code': code, 'tail': re.sub(r'\x1b\[\d*m', '', said)[-3000:]}
