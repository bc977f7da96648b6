"""The figures of docs/evidence.md, from rows of finished runs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from paired import Difference

# Told apart also by those who do not see all colours (Okabe and Ito).
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000', '#999999')
MARKERS = 'osD^vP*X'
SEED_STYLES = {'first seed': '-', 'second seed': '--', 'third seed': ':'}


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each name, the same wherever the name is drawn."""
    return {name: (COLOURS[i], MARKERS[i]) for i, name in enumerate(dict.fromkeys(names))}


def tidy(axes: Axes) -> None:
    """A light grid and no frame."""
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)


def save(figure: Figure, handles: dict, path: Path) -> None:
    """With one legend for all panels."""
    figure.legend(handles.values(), handles, loc='outside right upper', frameon=False)
    figure.savefig(path)


def draw_curves(panels: Mapping[str, Mapping[str, Sequence[dict]]], path: Path) -> None:
    """The training loss of every run: a panel for each data set, a colour for each name, a line style for each seed."""
    figure = Figure(figsize=(5 * len(panels) + 2, 4.5), dpi=120, layout='constrained')
    handles: dict = {}
    style_of = styles(name for backbones in panels.values() for name in backbones)
    subplots = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, backbones) in zip(subplots, panels.items(), strict=True):
        for name, rows in backbones.items():
            colour, _ = style_of[name]
            for row, style in zip(rows, SEED_STYLES.values(), strict=False):
                loss = row['loss']
                (line,) = axes.plot(loss['step'], loss['value'], style, color=colour, linewidth=1.3)
                handles.setdefault(name, line)
        axes.set(title=title, xlabel='iteration', ylabel='training loss', yscale='log')
        axes.yaxis.set_major_formatter('{x:g}')
        axes.yaxis.set_minor_formatter('{x:g}')
        tidy(axes)
    most = max((len(rows) for backbones in panels.values() for rows in backbones.values()), default=0)
    if most > 1:
        for seed, style in list(SEED_STYLES.items())[:most]:
            handles[seed] = Line2D([], [], linestyle=style, color='grey', linewidth=1.3)
    save(figure, handles, path)


def draw_semantic(panels: Mapping[str, Mapping[str, Mapping[int, float]]], path: Path) -> None:
    """AMI of clusters with classes by stage: a panel for each data set, a line for each way of clustering."""
    figure = Figure(figsize=(5 * len(panels) + 1.5, 3.8), dpi=120, layout='constrained')
    handles: dict = {}
    style_of = styles(name for lines in panels.values() for name in lines)
    subplots = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, lines) in zip(subplots, panels.items(), strict=True):
        for name, stages in lines.items():
            colour, marker = style_of[name]
            (line,) = axes.plot(list(stages), list(stages.values()), marker=marker, color=colour, linewidth=1.3)
            handles.setdefault(name, line)
        axes.set(title=title, xlabel='stage', xticks=sorted({stage for stages in lines.values() for stage in stages}))
        tidy(axes)
    subplots[0].set_ylabel('AMI with classes, 0 is chance')
    save(figure, handles, path)


def draw_counts(metric: str, rows: Mapping[str, dict], path: Path) -> None:
    """Metric against multiply-adds: a dot for each seed, a larger one at the mean."""
    figure = Figure(figsize=(9, 4.5), dpi=120, layout='constrained')
    axes = figure.subplots()
    style_of = styles(rows)
    for name, row in rows.items():
        colour, marker = style_of[name]
        adds = row['multiply_adds'] / 1e9
        axes.plot([adds] * len(row['values']), row['values'], '.', color=colour, alpha=0.6)
        axes.plot(adds, row['mean'], marker, color=colour, markersize=9, linestyle='', label=name)
    axes.set(xlabel='multiply-adds of the backbone, G', ylabel=f'{metric}: small dots are seeds, large ones their mean')
    axes.legend(title='clusters of stages 1 to 4', loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    tidy(axes)
    figure.savefig(path)


def draw_differences(panels: Mapping[str, Mapping[str, Difference]], path: Path) -> None:
    """Mean differences from the baseline and their intervals: a panel for each data set."""
    names = list(next(iter(panels.values())))
    figure = Figure(figsize=(4 * len(panels) + 3, 1.2 + 0.35 * len(names)), dpi=120, layout='constrained')
    subplots = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, found) in zip(subplots, panels.items(), strict=True):
        for place, name in enumerate(names):
            each = found[name]
            axes.plot((each.low, each.high), (place, place), color='black', linewidth=1.5)
            axes.plot(each.mean, place, 'o', color=COLOURS[int(each.adjusted < 0.05)])
        axes.axvline(0, color='grey', linewidth=1)
        axes.set(title=title, xlabel='difference from SemanticGrouping, mIoU')
        tidy(axes)
    subplots[0].set_yticks(range(len(names)), names)
    subplots[0].invert_yaxis()
    figure.savefig(path)
