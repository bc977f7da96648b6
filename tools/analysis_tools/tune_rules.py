"""The written rules by which tune_gpu.py decides: functions of figures alone."""

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ORDER = ('cast', 'depthwise', 'attention', 'residual_norm', 'sort', 'scores')  # in which kernels are tried end to end
TIE = 1.01  # times the fastest: as fast
FASTER = 1.15  # times what a kernel replaces, at three of four stages
FALLS, RISES = 0.97, 1.01  # times the median without the kernel: what one pass must reach, and none may exceed
AGREE = 2e-2  # relative distance of the maps from plain torch
WRONG = 5e-2  # relative error of a kernel beyond which something else than rounding is at work
TRIES = 2  # of a cell that raises

Tile = dict[str, int]


def right(row: Mapping[str, Any], plain_error: float) -> bool:
    """Whether a kernel gives equal bits twice, and at most twice the error of plain torch against float64."""
    return 'failed' not in row and bool(row['equal']) and row['error'] <= min(2 * plain_error + 1e-6, WRONG)


def fastest(rows: Sequence[Mapping[str, Any]], plain_error: float) -> Tile | None:
    """The tile with the smallest geometric mean of seconds over maps and passes, of those that are :func:`right`.

    Tiles within one percent of it tie: then the one with the fewest registers wins, and of equals the first.
    """
    usable = [row for row in rows if right(row, plain_error) and row['seconds']]
    if not usable:
        return None
    means = [math.exp(statistics.fmean(math.log(each) for each in row['seconds'].values())) for row in usable]
    ties = [row for row, mean in zip(usable, means, strict=True) if mean <= TIE * min(means)]
    return min(ties, key=lambda row: row['registers'] or 0)['tile']


def stage_speeds(cells: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By stage, how many times as fast as what it replaces a kernel is, all passes and maps of its cells together."""
    sums: dict[str, list[float]] = {}
    for cell in cells:
        for label, row in cell.get('against', {}).items():
            if 'plain' in row and 'kernel' in row:
                both = sums.setdefault(label.split(',')[0], [0.0, 0.0])
                both[0] += row['plain']
                both[1] += row['kernel']
    return {stage: plain / kernel for stage, (plain, kernel) in sorted(sums.items())}


def stays(speeds: Mapping[str, float]) -> bool:
    """Whether a kernel is fast enough at three of four stages: of those that it serves, where it serves fewer."""
    return sum(speed >= FASTER for speed in speeds.values()) >= max(1, math.ceil(0.75 * len(speeds)))


def joins(row: Mapping[str, Any]) -> bool:
    """Whether a kernel joins the set: one pass falls by more than 3 %, none rises by more than 1 %, maps agree."""
    if 'distance' not in row or row.get('failed'):
        return False
    passes = [row[mode] for mode in ('inference', 'training')]
    if any('seconds' not in each.get(side, {}) for each in passes for side in ('with', 'without')):
        return False
    changes = [each['with']['seconds'] / each['without']['seconds'] for each in passes]
    # Where rounding alone moves maps further, as tokens that change over between clusters do, that is the bound.
    agree = row['distance'] <= max(AGREE, row['plain_distance'])
    return agree and min(changes) < FALLS and max(changes) <= RISES


def kernel_cells(results: Mapping[str, Any], kernel: str) -> list[dict]:
    """Results of the cells that say how fast a kernel is by itself; see :func:`stage_speeds`."""
    return [result for result in results.values() if result.get('kernel') == kernel]


def kernel_set(results: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The set as far as it is known: kernels that stay and have joined, and what was found for each, by name."""
    kept: list[str] = []
    said: dict[str, str] = {}
    for kernel in ORDER:
        cells = kernel_cells(results, kernel)
        row = results.get(f'set, {kernel}', {})
        errors = [cell['wrong'][0] for cell in cells if cell.get('wrong')]
        speeds = stage_speeds(cells)
        if errors:
            said[kernel] = f'left out: {errors[0]}'
        elif cells and not stays(speeds):
            shown = ', '.join(f'{speed:.2f}' for speed in speeds.values()) or 'nowhere'
            said[kernel] = f'left out: too slow by itself ({shown} times what it replaces)'
        elif 'error' in row:
            said[kernel] = f'left out: {row["error"]}'
        elif not row:
            said[kernel] = 'not measured'
        elif joins(row):
            kept.append(kernel)
            said[kernel] = 'joins'
        else:
            said[kernel] = 'left out: brings too little end to end, or maps differ'
    return kept, said


def tiles(results: Mapping[str, Any]) -> dict[str, dict[str, Tile]]:
    """The tiles that were chosen, by kernel and key."""
    found: dict[str, dict[str, Tile]] = {}
    for result in results.values():
        for kernel, keys in result.get('chosen', {}).items():
            for key, tile in keys.items():
                found.setdefault(kernel, {}).setdefault(key, tile)
    return {kernel: dict(sorted(keys.items())) for kernel, keys in sorted(found.items())}


def pending(results: Mapping[str, Any], name: str) -> bool:
    """Whether a cell is to be measured: it never was, or raised and may be tried once more."""
    result = results.get(name)
    return result is None or ('error' in result and result.get('tries', 1) < TRIES)


def write(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    beside = path.with_name(f'{path.name}.{os.getpid()}')
    beside.write_text(json.dumps(content, indent=1) + '\n')
    beside.replace(path)


def write_table(path: Path, device: str, entry: Mapping[str, Any]) -> None:
    """Write what was decided for a kind of device, such as 'sm_90'; what the file says of others stays."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    write(path, content | {device: dict(entry)})
