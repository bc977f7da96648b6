"""Image, truth, prediction and clusters of several images in one picture."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from mmsec.datasets.regions import Regions
from mmsec.visualization.clusters import PALETTE, ClusterMap, as_laid, draw_clusters
from mmsec.visualization.drawing import OPACITY, flatness, frame, pixels

_CONTOUR_PIXELS = 400


class SheetRow(NamedTuple):
    """An image on a contact sheet.

    Attributes:
        image (np.ndarray): (H, W, 3) uint8, RGB, as the model sees it.
        truth (Regions): At any size; it is stretched over the image.
        prediction (Regions): The same.
        maps (Sequence[ClusterMap]): As many in every row of a sheet; none for a backbone without clusters.
    """

    image: np.ndarray
    truth: Regions
    prediction: Regions
    maps: Sequence[ClusterMap]


def contact_sheet(
    rows: Sequence[SheetRow], classes: Sequence[str], palette: Sequence[Sequence[int]] | None
) -> np.ndarray:
    """Draw a row for each image, at least one: image, truth, prediction, and clusters of some stages.

    ``palette`` has an RGB colour, 0 to 255, for each class; without, any. The sheet is (height, width, 3) uint8, RGB;
    1200 pixels wide.
    """
    if not rows:
        raise ValueError('a contact sheet needs at least one row')
    if palette is None:
        palette = [[round(255 * part) for part in colormaps['tab20'](i % 20)[:3]] for i in range(len(classes))]
    columns = 3 + len(rows[0].maps)
    heights = [flatness(row.image) for row in rows]
    shown = np.unique(np.concatenate([each.labels for row in rows for each in (row.truth, row.prediction)]))
    longest = max((len(classes[label]) for label in shown), default=0)
    legend_columns = max(1, int(12 / (0.7 + 0.1 * longest)))  # inches
    legend_lines = -(-len(shown) // legend_columns)
    height = 12 / columns * sum(heights) + 0.8 + 0.25 * legend_lines
    free = 0.08 / height  # above the titles: the layout beside a colour bar is some pixels off
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0, rect=(0, 0, 1, 1 - free))
    figure = Figure(figsize=(12, height), dpi=100, layout=layout)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    titles = ['image', 'truth', 'prediction', *(f'clusters, {each.title.split(",")[0]}' for each in rows[0].maps)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize='medium')
    for line, row in zip(grid, rows, strict=True):
        line[0].imshow(row.image)
        for axes, areas in zip(line[1:3], (row.truth, row.prediction), strict=True):
            _draw_regions(axes, row.image, areas, palette)
        for axes, each in zip(line[3:], row.maps, strict=True):
            draw_clusters(axes, row.image, each)
        for axes in line:
            frame(axes, row.image)
    if any(each.scores is not None for each in rows[0].maps):
        bar = ScalarMappable(cmap=ListedColormap(as_laid(colormaps[PALETTE](np.linspace(0, 1, 256)))))
        legend = figure.colorbar(bar, ax=grid, location='bottom', aspect=80, pad=0.01, ticks=[0, 1])
        legend.ax.set_xticklabels(['clusters: least similar to the mean key', 'most similar'])
        left, right = legend.ax.get_xticklabels()
        left.set_horizontalalignment('left')
        right.set_horizontalalignment('right')
    patches = [Patch(color=_colour(palette[label]), label=classes[label]) for label in shown]
    if patches:
        figure.legend(handles=patches, loc='outside lower center', ncols=legend_columns, frameon=False)
    return pixels(figure)


def _colour(rgb: Sequence[int]) -> tuple[float, float, float]:
    """A colour of a palette, 0 to 255, as matplotlib takes it."""
    red, green, blue = rgb
    return red / 255, green / 255, blue / 255


def _draw_regions(axes: Axes, image: np.ndarray, areas: Regions, palette: Sequence[Sequence[int]]) -> None:
    """Draw areas over the image in the colours of their classes, outlined."""
    height, width = image.shape[:2]
    axes.imshow(image)
    over = np.zeros((*areas.masks.shape[1:], 4), np.uint8)
    for mask, label in zip(*areas, strict=True):
        over[mask] = *palette[label], round(OPACITY * 255)
    axes.imshow(over, extent=(0, width, height, 0), interpolation='nearest')
    step = max(1, max(over.shape) // _CONTOUR_PIXELS)  # no outline needs more than the panel has
    for mask in areas.masks[:, ::step, ::step]:
        if min(mask.shape) > 1 and mask.any() and not mask.all():
            x = (np.arange(mask.shape[1]) + 0.5) * width / mask.shape[1]
            y = (np.arange(mask.shape[0]) + 0.5) * height / mask.shape[0]
            axes.contour(x, y, mask, levels=[0.5], colors='white', linewidths=0.8)
