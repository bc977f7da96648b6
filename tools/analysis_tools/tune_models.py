"""Cells of tune_gpu.py that look at whole backbones: sets of kernels, rivals, unseen sizes."""

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from baselines import Side, forward_of, precision, prepare, step_of
from timing import by_turns, release, seconds_of, synchronised
from torch import Tensor, nn
from tune_kernels import distance

from mmsec import ops
from mmsec.models import ViT
from mmsec.ops.kernels.table import use_table

_SIDES = {
    'clusters of 98': ('secvit', 'size'),
    'clusters of 98, without kernels': ('secvit', 'size'),
    'Swin-T': ('swin_t', 'published'),
    'published counts': ('secvit', 'published'),
    'published code': ('reference', 'published'),
}


def side_of(cell: dict, name: str, mode: str) -> Side:
    """One of :data:`_SIDES`, for 'inference', 'training' or a 'graph' of inference."""
    model, counts = _SIDES[name]
    short = {'inference': 'infer', 'training': 'train'}.get(mode, mode)
    shape, compiled = tuple(cell['shape']), cell.get('compile', False)
    return Side(model, cell['arch'], shape, cell['images'], counts, short, cell['dtype'], compiled, cell['device'])


def under(content: dict, make: Callable[[], Callable[[], Any]]) -> Callable[[], Callable[[], Any]]:
    """Make and run something with these kernels and tiles."""

    def maker() -> Callable[[], Any]:
        with use_table(content):
            run = make()
        return use_table(content)(run)

    return maker


def kernel_set(cell: dict) -> dict:
    """SecViT with and without one more kernel, by turns, in inference and training; and how far maps are apart."""
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
        makers[name] = under(content, lambda side=side: prepare(side, cell['backend']))
    return by_turns(makers, cell['device'], cell['rounds'])


def mergings(cell: dict) -> dict:
    """Inference of a ViT without merging and with each method, by turns."""
    device = cell['device']
    images = torch.randn(cell['images'], 3, *cell['shape'], device=device)

    def make(merging: dict | None) -> Callable[[], None]:
        torch.manual_seed(0)
        model = ViT(cell['arch'], merging=merging, drop_path_rate=0.0).to(device).eval()

        def run() -> None:
            with torch.no_grad(), precision(cell['dtype'], device):
                model(images)

        return synchronised(run, device)

    return by_turns({name: partial(make, merging) for name, merging in cell['sides'].items()}, device, cell['rounds'])


def visits(cell: dict) -> dict:
    """Seconds of the first and second training step at each of many unseen sizes, until 'seconds' are over."""
    name, device = cell['side'], cell['device']
    step, images = step_of(side_of(cell, name, 'training'))
    start = time.monotonic()
    row: dict[str, list] = {'sizes': [], 'first': [], 'second': []}
    with use_table({} if 'without' in name else cell['table']):
        for height, width in [cell['shape'], *cell['sizes']]:  # the first for what is compiled once
            if time.monotonic() - start > cell['seconds']:
                break
            run = synchronised(partial(step, torch.randn(len(images), 3, height, width, device=device)), device)
            row['sizes'].append([height, width])
            for visit in ('first', 'second'):
                synchronised(lambda: None, device)()
                row[visit].append(seconds_of(run))
    warm = {visit: row[visit].pop(0) for visit in ('first', 'second')}
    row['sizes'].pop(0)
    medians = {f'{visit}_median': statistics.median(row[visit]) for visit in warm if row[visit]}
    return row | medians | {'warm_up': warm}
