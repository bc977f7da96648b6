"""Cluster maps over an image -> a picture; no files, no network."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from mmsec.ops import Grouping, cluster_ranks

PALETTE = 'viridis'  # ordered in brightness, readable by the colour-blind
_GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601
_TICKS = 8


class ClusterMap(NamedTuple):
    """Clusters of one stage and head.

    Attributes:
        title (str): Such as 'stage 1, head 2'.
        stride (int): Pixels of the image a token covers, along each side.
        ranks (Tensor): (H', W') int64, the cluster of each token from 0, in ascending order of score.
        scores (Tensor): (H', W').
    """

    title: str
    stride: int
    ranks: Tensor
    scores: Tensor


def mean_of_heads(scores: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Average the scores of all heads and cut the sorted result into clusters, as each head does with its own.

    No head groups tokens like that; it is a summary for the eye.

    Args:
        scores (Tensor): (heads, H', W').
        num_clusters (int): Clusters M.

    Returns:
        tuple[Tensor, Tensor]: Ranks and mean scores, (H', W') each.
    """
    mean = scores.mean(0)
    order = mean.flatten()[None, None].argsort(dim=-1, stable=True)  # (1, 1, N)
    ranks = cluster_ranks(Grouping(order, order.argsort(dim=-1), num_clusters))
    return ranks.view(mean.shape), mean


def cluster_sheet(image: np.ndarray, maps: Sequence[ClusterMap]) -> np.ndarray:
    """Draw a row for each map: the picture, the clusters over it, and the scores they were made of.

    A cluster's colour is its place between the least and the most similar one, so that colours mean the same in every
    map whatever its number of clusters.

    Args:
        image (np.ndarray): (H, W, 3) uint8, RGB.
        maps (Sequence[ClusterMap]): At least one.

    Returns:
        np.ndarray: (height, width, 3) uint8, RGB; 1200 pixels wide.

    Raises:
        ValueError: If there is no map.
    """
    if not maps:
        raise ValueError('a sheet needs at least one map')
    height, width = image.shape[:2]
    panel = 3.2 * min(max(height / width, 0.3), 1.5)  # inches; very flat or tall images keep room for the legend
    figure = Figure(figsize=(12, len(maps) * (panel + 0.55)), dpi=100, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    rows = figure.subplots(len(maps), 3, squeeze=False)
    grey = (image @ _GREY).astype(np.uint8)
    for (picture, clusters, scores), each in zip(rows, maps, strict=True):
        rows_of_tokens, columns = each.ranks.shape
        # The last tokens of a row may reach beyond the image.
        extent = (0, columns * each.stride, rows_of_tokens * each.stride, 0)
        num_clusters = int(each.ranks.max()) + 1
        colours = ListedColormap(colormaps[PALETTE](np.linspace(0, 1, num_clusters) if num_clusters > 1 else [0.5]))
        picture.imshow(image)
        picture.set_title('image', fontsize='medium')
        clusters.imshow(grey, cmap='gray', vmin=0, vmax=255)
        last = max(num_clusters - 1, 1)
        on_tokens = dict(extent=extent, interpolation='nearest')
        clusters.imshow(each.ranks, cmap=colours, vmin=0, vmax=last, alpha=0.7, **on_tokens)
        count = f'{num_clusters} clusters' if num_clusters > 1 else 'one cluster'
        clusters.set_title(f'{each.title}: {count}', fontsize='medium')
        drawn = scores.imshow(each.scores, cmap='magma', **on_tokens)
        scores.set_title('score: cosine with the mean key', fontsize='medium')
        figure.colorbar(drawn, ax=scores, fraction=0.04)
        norm = BoundaryNorm(np.arange(num_clusters + 1) - 0.5, num_clusters)
        ticks = np.unique(np.linspace(0, num_clusters - 1, min(num_clusters, _TICKS)).round().astype(int))
        legend = figure.colorbar(ScalarMappable(norm, colours), ax=clusters, fraction=0.04, ticks=ticks)
        means = [each.scores[each.ranks == rank].mean().item() for rank in ticks]
        legend.minorticks_off()
        legend.set_label('mean score of the cluster', fontsize='small')
        legend.ax.set_yticklabels([f'{mean:.2f}' for mean in means], fontsize='small')
        for axes in (picture, clusters, scores):
            axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect='equal')
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
