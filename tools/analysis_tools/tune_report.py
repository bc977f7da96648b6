"""What tune_gpu.py found, as Markdown and as a plot."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tune_rules as rules
from tune_plan import MERGINGS, RIVALS, rival_name

NOT_MEASURED = 'not measured'
Cells = Mapping[str, Mapping[str, Any]]


def brief(result: Mapping[str, Any]) -> str:
    """A cell in a few words, for the screen."""
    for key in ('error', 'skipped', 'wrong'):
        if result.get(key):
            return f'{key}: {result[key]}'
    took = f'{result["took"]:.1f} s'
    if 'against' in result:
        speeds = ', '.join(f'{stage} {speed:.2f}' for stage, speed in rules.stage_speeds([result]).items())
        return f'{took}; times as fast as plain torch: {speeds}'
    rows = {name: row for name, row in result.items() if isinstance(row, dict) and 'seconds' in row}
    return '; '.join([took, *(f'{name} {row["seconds"] * 1e3:.2f} ms' for name, row in rows.items())])


def _ratio(row: Mapping[str, Any], other: str, ours: str, key: str = 'seconds') -> float | None:
    """How many times the figure of ``ours`` the other's is in the row of a cell."""
    values = [row.get(side, {}).get(key) for side in (other, ours)]
    return values[0] / values[1] if all(values) else None


def aims(cells: Cells) -> list[tuple[str, str, float | None, bool | None]]:
    """The aims of the project: what, the bound, the figure, and whether it is reached; None where not measured."""
    ours, swin, wide, crop = *RIVALS[:2], (800, 1344), (512, 512)
    found: list[tuple[str, str, float | None, bool | None]] = []

    def add(what: str, figure: float | None, bound: float, least: bool = True) -> None:
        reached = None if figure is None else figure >= bound if least else figure <= bound
        found.append((what, f'{"at least" if least else "at most"} {bound:g}', figure, reached))

    for mode, images in (('inference', 8), ('training', 2), ('training', 8)):
        row = cells.get(rival_name('small', mode, images, wide), {})
        speed, memory = _ratio(row, swin, ours), _ratio(row, ours, swin, 'peak_bytes')
        what = f'SecViT-S, clusters of 98, {mode}, {images}x3x800x1344'
        for bound in (1.0, 1.5) if mode == 'inference' else (1.0,):
            add(f'{what}: times as fast as Swin-T', speed, bound)
        add(f"{what}: times Swin-T's memory", memory, 1.0, False)
    speed = _ratio(cells.get(rival_name('small', 'training', 8, crop), {}), *reversed(RIVALS[2:]))
    add('SecViT-S, published counts, training, 8x3x512x512: times as fast as the published code', speed, 3.0)
    for mode, images in (('inference', 8), ('training', 2)):
        speed = _ratio(cells.get(rival_name('tiny', mode, images, wide), {}), swin, ours)
        add(f'SecViT-T, clusters of 98, {mode}, {images}x3x800x1344: times as fast as Swin-T', speed, 1.5)
    first = cells.get('visits, clusters of 98', {}).get('first')
    add('first visit to an unseen size in training, the longest, seconds', max(first) if first else None, 0.3, False)
    return found


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A section with a table, or with a line that says that there is nothing."""
    lines = ['', f'## {title}', '']
    if not rows:
        return [*lines, f'{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}.']
    lines += [f'| {" | ".join(head)} |', '|' + '---|' * len(head)]
    return [*lines, *(f'| {" | ".join(map(_shown, row))} |' for row in rows)]


def _shown(value: Any) -> str:
    """A figure or text of a table."""
    if value is None:
        return NOT_MEASURED
    return f'{value:.3g}' if isinstance(value, float) else str(value).replace('|', '/').replace('\n', ' ')


def _ms(row: Mapping[str, Any]) -> str:
    """Milliseconds, or why there are none."""
    if 'seconds' in row:
        return f'{row["seconds"] * 1e3:.2f}'
    return f'{NOT_MEASURED}: {row["error"]}' if 'error' in row else NOT_MEASURED


def _kind(cells: Cells, start: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Cells whose name starts so, by the rest of their name."""
    for name, result in cells.items():
        if name.startswith(start):
            yield name.removeprefix(start), result


def markdown(content: Mapping[str, Any]) -> str:
    """All figures and decisions."""
    cells, where = content['cells'], content['machine']
    kept, said = rules.kernel_set(cells)
    lines = [f'# {where["device"]}, torch {where["torch"]}', '', f'Kernels that are on: {", ".join(kept) or "none"}.']
    reached = {True: 'reached', False: 'not reached', None: NOT_MEASURED}
    rows = [(what, bound, figure, reached[answer]) for what, bound, figure, answer in aims(cells)]
    lines += _table('Aims', ('aim', 'bound', 'figure', ''), rows)
    rows = []
    for kernel in rules.ORDER:
        speeds = rules.stage_speeds(rules.kernel_cells(cells, kernel))
        row = cells.get(f'set, {kernel}', {})
        changes = [_ratio(row.get(mode, {}), 'without', 'with') for mode in ('inference', 'training')]
        shown = ', '.join(f'{stage}: {speed:.2f}' for stage, speed in speeds.items()) or NOT_MEASURED
        rows.append((kernel, shown, *changes, row.get('distance'), row.get('plain_distance'), said[kernel]))
    head = ('kernel', 'times as fast as plain torch by itself', 'SecViT-S, inference', 'training')
    lines += _table('Kernels', (*head, 'distance of maps', 'of plain torch from float32', 'decision'), rows)
    tiles = rules.tiles(cells)
    rows = [(kernel, key, tile) for kernel, keys in tiles.items() for key, tile in keys.items() if tile]
    lines += _table('Tiles', ('kernel', 'for', 'tile'), rows)
    rows = [
        (name, label, *(None if side not in row else row[side] * 1e3 for side in ('plain', 'kernel')))
        for name, result in _kind(cells, 'tiles, ')
        for label, row in result.get('against', {}).items()
    ]
    lines += _table('Kernels by themselves, ms', ('', 'map', 'plain torch', 'kernel'), rows)
    rows = []
    for name, result in _kind(cells, 'rivals, '):
        ratios = (_ratio(result, *pair) for pair in ((RIVALS[1], RIVALS[0]), (RIVALS[3], RIVALS[2])))
        memory = _ratio(result, *RIVALS[:2], 'peak_bytes')
        rows.append((name, *(_ms(result.get(side, result)) for side in RIVALS), *ratios, memory))
    head = (*RIVALS, 'Swin-T / clusters of 98', 'published code / published counts', 'clusters of 98 / Swin-T, memory')
    lines += _table('SecViT and its rivals, milliseconds', ('', *head), rows)
    rows = [
        (name, len(row['first']), row.get('first_median'), max(row['first'], default=None), row.get('second_median'))
        for name, row in _kind(cells, 'visits, ')
        if 'first' in row
    ]
    lines += _table('Unseen sizes, training, seconds', ('', 'sizes', 'first step', 'longest', 'second step'), rows)
    merged = _kind(cells, 'mergings, ')
    rows = [(name, *(_ms(result.get(each, result)) for each in MERGINGS)) for name, result in merged]
    lines += _table('Token merging in a ViT, inference, milliseconds', ('', *MERGINGS), rows)
    facts = cells.get('machine', {})
    rows = [(key, facts[key]) for key in ('machine', 'copy_TB_s', 'product_TFLOP_s', 'launch_us') if key in facts]
    lines += _table('Machine', ('', ''), rows)
    rows = [
        (name, each)
        for name, result in cells.items()
        for key in ('error', 'skipped', 'wrong', 'failed')
        if (each := result.get(key))
    ]
    return '\n'.join([*lines, *_table('What went wrong or was left out', ('cell', ''), rows)]) + '\n'


def draw(content: Mapping[str, Any], path: Path) -> None:
    """Times as fast as Swin-T and the published code, over the cells of rivals."""
    from matplotlib import pyplot as plt

    plt.switch_backend('Agg')
    figure, axes = plt.subplots(figsize=(9, 5), layout='constrained')
    cells = dict(_kind(content['cells'], 'rivals, '))
    for ours, other in (RIVALS[:2], RIVALS[2:]):
        points = {name: _ratio(row, other, ours) for name, row in cells.items()}
        points = {name: value for name, value in points.items() if value is not None}
        axes.plot(list(points), list(points.values()), marker='o', linestyle='', label=f'{other} / {ours}')
    axes.axhline(1, color='grey', linewidth=0.8)
    axes.set_title('times as fast')
    axes.set_yscale('log', base=2)
    axes.yaxis.set_major_formatter('{x:g}')
    axes.tick_params(axis='x', rotation=90, labelsize='x-small')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False)
    figure.suptitle(content['machine']['device'])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(content: Mapping[str, Any], path: Path) -> str:
    """Write Markdown and plot beside the JSON file of the figures; what to say of it."""
    text = markdown(content)
    path.with_suffix('.md').write_text(text)
    plot = str(path.with_suffix('.png'))
    try:
        draw(content, path.with_suffix('.png'))
    except ImportError as error:
        plot = f'none, for want of matplotlib ({error})'
    return f'{text}\nfigures: {path}, tables: {path.with_suffix(".md")}, plot: {plot}'
