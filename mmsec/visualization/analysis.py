"""How far clusters agree with annotations, as a figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mmsec.evaluation.clusters import BASELINES, MEASURES
from mmsec.visualization.drawing import pixels


def analysis_figure(rows: Sequence[dict], title: str) -> np.ndarray:
    """Draw a panel for each measure: a dot for each head or scale, stage by stage, and a line for each baseline.

    Args:
        rows (Sequence[dict]): ``stage``, ``grouping`` (such as 'head 1' or one of :data:`BASELINES`), ``scale`` where
            all heads share their clusters, and a value or None for each of :data:`MEASURES`.
        title (str): Stands above.

    Returns:
        np.ndarray: (height, width, 3) uint8, RGB.
    """
    shown = [key for key in MEASURES if any(row[key] is not None for row in rows)]
    figure = Figure(figsize=(12, 2.2 * len(shown) + 0.6), dpi=100, layout='constrained')
    figure.suptitle(f'{title}; AMI and purity corrected for chance')
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
    stages = sorted(dict.fromkeys((row['stage'], row.get('scale')) for row in rows), key=lambda each: each[0])
    for axes, key in zip(panels, shown, strict=True):
        start, ticks = 0, []
        for stage, scale in stages:
            here = [row for row in rows if (row['stage'], row.get('scale')) == (stage, scale)]
            heads = [row[key] for row in here if row['grouping'] not in BASELINES]
            x = start + np.arange(len(heads))
            axes.plot(x, heads, 'o', color='tab:blue', label='a scale' if scale else 'a head')
            around = [start - 0.4, start + len(heads) - 0.6]
            for name, colour in zip(BASELINES, ('tab:orange', 'tab:gray'), strict=True):
                value = next(row[key] for row in here if row['grouping'] == name)
                axes.plot(around, [value, value], color=colour, label={'random': 'random split'}.get(name, name))
            ticks.append((np.mean(around), f'stage {stage}' + (f',\n{scale}' if scale else '')))
            start += len(heads) + 1
        axes.set_ylabel(MEASURES[key])
        axes.set_xticks(*zip(*ticks, strict=True))
        axes.grid(axis='y', alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc='outside lower center', ncols=3, frameon=False)
    return pixels(figure)
