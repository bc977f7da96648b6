"""Cells of tune_gpu.py that look at kernels by themselves: what they cost, what they replace, and their tiles."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
import triton
import tune_rules as rules
import tune_work
from baselines import DTYPES
from timing import rounds, seconds_of, synchronised
from tune_work import Passes, Results

from mmsec.cli.machine import machine
from mmsec.ops.kernels.gpu import launch, norm

_CALLS = 5  # between two events
_CYCLES = 2e9  # of the GPU's clock in a second, about
_LONGEST_WAIT = 0.2  # seconds

Choice = dict[str, dict[str, launch.Tile]]  # tiles by kernel and key; '' for any key


def facts(cell: dict) -> dict:
    """The machine: its software, copy and product speed, and what a launch costs the host, in microseconds."""
    device = cell['device']
    count, side, loop = cell['sizes']
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target, small = torch.empty_like(source), torch.zeros(1, 16, device=device)
    square = torch.randn(side, side, device=device, dtype=DTYPES[cell['dtype']])
    leaf = torch.zeros(1, 16, device=device, requires_grad=True)
    with torch.no_grad():
        seconds = device_seconds({'copy': lambda: target.copy_(source), 'product': lambda: square @ square}, cell)
    launches = {
        'add_': lambda: small.add_(1),
        'Triton': lambda: norm.residual(small, small, None, None, 1.0),
        'Triton and its Function': lambda: norm.residual(leaf, small, None, None, 1.0),
    }
    costs = {}
    for name, run in launches.items():
        synchronised(run, device)()
        start = time.perf_counter()
        for _ in range(loop):
            run()
        costs[name] = (time.perf_counter() - start) / loop * 1e6  # the host's part: nothing waits
        synchronised(run, device)()
    return {
        'machine': machine() | {'triton': triton.__version__, 'cpus': os.cpu_count()},
        'copy_TB_s': 2 * count / seconds['copy'] / 1e12,
        'product_TFLOP_s': 2 * side**3 / seconds['product'] / 1e12,
        'launch_us': costs,
    }


def device_seconds(runs: dict[str, Callable[[], object]], cell: dict) -> dict[str, float]:
    """Median seconds of a call on the device, of functions that take turns; each is called twice before."""
    device = cell['device']
    host = {}
    for name, run in runs.items():
        synchronised(run, device)()
        host[name] = seconds_of(run)
        synchronised(run, device)()
    times = rounds({name: partial(_once, run, host[name], device) for name, run in runs.items()}, cell['rounds'])
    return {name: statistics.median(each) for name, each in times.items()}


def _once(run: Callable[[], object], host: float, device: str) -> float:
    """Seconds of a call on the device, which waits until the host, that takes so long for one, has launched all."""
    if device == 'cpu':
        return seconds_of(run)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(int(min(1.5 * _CALLS * host, _LONGEST_WAIT) * _CYCLES))
    first.record()
    for _ in range(_CALLS):
        run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3 / _CALLS


@contextmanager
def replaced(name: str, function: Callable) -> Iterator[None]:
    """Another function in the place of ``launch.tile`` or ``launch.launch`` inside this context."""
    before = getattr(launch, name)
    setattr(launch, name, function)
    try:
        yield
    finally:
        setattr(launch, name, before)


Asked = dict[tuple[str, str], list[launch.Tile]]  # candidates by kernel and key


def with_tiles(run: Callable[[], Any], choice: Choice, found: Asked | None = None) -> Callable[[], Any]:
    """A function under these tiles, the first candidate for what is not there; ``found`` takes what it asks for."""

    def tile(kernel: str, key: str, candidates: list[launch.Tile]) -> launch.Tile:
        if found is not None:
            found[kernel, key] = candidates
        keys = choice.get(kernel, {})
        return keys.get(key) or keys.get('') or candidates[0]

    def both() -> Any:
        with replaced('tile', tile):
            return run()

    return both


def asked(run: Callable[[], object], choice: Choice) -> Asked:
    """The tiles that a function asks for under some."""
    found: Asked = {}
    with suppress(Exception):  # one that fails will say so where it is checked
        with_tiles(run, choice, found)()
    return found


def registers(run: Callable[[], Results]) -> tuple[Results, dict[str, int]]:
    """What a function gives, and registers and spills of the kernels that it starts, the most; 0 if interpreted."""
    found = {'registers': 0, 'spills': 0}

    def start(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, stages: int = 2) -> None:
        compiled = kernel[grid](*args, num_warps=warps, num_stages=stages)
        found['registers'] = max(found['registers'], getattr(compiled, 'n_regs', None) or 0)
        found['spills'] = max(found['spills'], getattr(compiled, 'n_spills', None) or 0)

    with replaced('launch', start):
        return run(), found


def distance(ours: Results, truth: Results) -> float:
    """The largest relative distance of tensors."""
    pairs = zip(ours, truth, strict=True)
    return max(((a.double() - b).norm() / b.norm().clamp(min=1e-30)).item() for a, b in pairs)


def tiles(cell: dict) -> dict:
    """Measure a kernel's tiles, choose, and compare what was chosen with plain torch as it runs today.

    What 'what' of tune_work.py makes of 'maps' is timed, and of 'small' held against float64. With 'ahead', everything
    is compiled and no map is timed; with 'chosen', tiles of an earlier call are. 'candidates' stand in the place of
    those of the kernel's module.
    """
    make, half = getattr(tune_work, cell['what']), DTYPES[cell['dtype']]
    small, plain = make(cell, cell['small'], half)
    exact = make(cell, cell['small'], torch.float64)[1]
    truth = {name: [each.double() for each in run()] for name, run in exact.items()}
    errors = {name: distance(plain[name](), truth[name]) for name in small}
    maps = {} if cell.get('ahead') else {label: make(cell, shape, half) for label, shape in cell['maps'].items()}
    instead = cell.get('candidates', {}) | {kernel: [*keys.values()] for kernel, keys in cell.get('chosen', {}).items()}
    default = {kernel: {'': candidates[0]} for kernel, candidates in instead.items()}
    parts = {name: asked(run, default) for name, run in small.items()}
    timed = {
        f'{label}, {name}': (run, asked(run, default))
        for label, (ours, _) in maps.items()
        for name, run in ours.items()
    }
    found: Asked = {}
    for wants in [*parts.values(), *(wants for _, wants in timed.values())]:
        found |= wants
    measured: dict[str, Any] = {}
    chosen: dict[str, dict[str, launch.Tile]] = {}
    for (kernel, key), candidates in found.items():
        of = {name: small[name] for name, wants in parts.items() if kernel in {each for each, _ in wants}}
        if not of:
            continue  # nothing to compare it with: the default stays
        others = {each: keys for each, keys in default.items() if each != kernel}
        rows = [
            {'tile': tile} | checked(of, truth, others | {kernel: {'': tile}})
            for tile in instead.get(kernel, candidates)
        ]
        for label, (run, wants) in timed.items():
            if (kernel, key) in wants:
                usable = {str(i): row for i, row in enumerate(rows) if 'failed' not in row}
                under = {i: with_tiles(run, others | {kernel: {'': row['tile']}}) for i, row in usable.items()}
                for i, seconds in device_seconds(under, cell).items():
                    usable[i]['seconds'][label] = seconds
        measured[f'{kernel}, {key}'] = rows
        best = rules.fastest(rows, max(errors[name] for name in of))
        if best is not None:
            chosen.setdefault(kernel, {})[key] = best
    under = default | chosen
    last = {name: checked({name: run}, truth, under) for name, run in small.items()}
    wrong = [f'{name}: {row}' for name, row in last.items() if not rules.right(row, errors[name])]
    against: dict[str, dict[str, Any]] = {}
    for label, (ours, theirs) in maps.items():
        for name, run in theirs.items():
            sides = {'plain': run} | ({'kernel': with_tiles(ours[name], under)} if name in ours else {})
            against[f'{label}, {name}'] = device_seconds(sides, cell)
            if name in ours and not equal(sides['kernel'](), sides['kernel']()):
                wrong.append(f'{label}, {name}: two runs differ')
    return dict(tiles=measured, chosen=chosen, against=against, plain_error=errors, checked=last, wrong=wrong)


def equal(first: Results, second: Results) -> bool:
    """Whether tensors have the same bits."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def checked(runs: Passes, truth: dict[str, Results], choice: Choice) -> dict:
    """Error against float64, equality of two runs, and registers under some tiles; or why they fail."""
    row: dict[str, Any] = {'error': 0.0, 'equal': True, 'registers': 0, 'spills': 0, 'seconds': {}}
    try:
        for name, run in runs.items():
            first, used = registers(with_tiles(run, choice))
            row |= {each: max(row[each], value) for each, value in used.items()}
            row['error'] = max(row['error'], distance(first, truth[name]))
            row['equal'] &= equal(first, with_tiles(run, choice)())
    except Exception as error:  # of Triton's compiler, or its driver for want of shared memory
        return {'failed': f'{type(error).__name__}: {error}'[:300]}
    return row
