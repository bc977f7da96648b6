"""Clusters of a backbone -> cluster maps -> pictures over the image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, hsv_to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mmsec.datasets.image_files import MEAN, STD
from mmsec.models.backbones.base import Backbone
from mmsec.models.inspection import scales_of, token_clusters
from mmsec.ops import Grouping, cluster_ids
from mmsec.visualization.drawing import OPACITY, draw_grey, extent, flatness, frame, pixels

PALETTE = 'viridis'  # ordered in brightness, readable by the colour-blind
_GOLDEN = 0.618034  # step of the hue from one cluster to the next, so that similar hues are far apart
_TICKS = 8


class ClusterMap(NamedTuple):
    """Clusters of one stage and of one head or scale, or merged tokens.

    Attributes:
        title (str): Such as 'stage 1, head 2' or 'stage 1, fine scale'.
        stride (int): Pixels of the image a token covers, along each side.
        ids (Tensor): (H', W') int64, the cluster of each token from 0, in ascending order of score if there is one.
        scores (Tensor, optional): (H', W'), what tokens were sorted by.
        score_name (str): What the scores are.
    """

    title: str
    stride: int
    ids: Tensor
    scores: Tensor | None = None
    score_name: str = ''


def mean_of_heads(scores: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Average the scores (heads, H', W') and cut the sorted result into clusters: ids and mean scores, (H', W') each.

    No head groups tokens like that; it is a summary for the eye.
    """
    mean = scores.mean(0)
    order = mean.flatten()[None, None].argsort(dim=-1, stable=True)  # (1, 1, N)
    ids = cluster_ids(Grouping(order, num_clusters))
    return ids.view(mean.shape), mean


def cluster_maps(
    backbone: Backbone, image: Tensor, stages: Sequence[int], block: int = -1, heads: str | int = 'mean'
) -> list[ClusterMap]:
    """Ask a backbone for the clusters of one image.

    Args:
        backbone (Backbone): The backbone.
        image (Tensor): (1, in_channels, H, W), normalised as the backbone wants it.
        stages (Sequence[int]): Stages from 0.
        block (int): Block of each stage from 0, or from its end if negative. Default: -1.
        heads (str | int): 'all' for a map of each head, 'mean' for :func:`mean_of_heads` (the first head where
            clusters have no scores), or one head from 0. Where all heads share their clusters these are scales, and
            'mean' gives all of them. Default: 'mean'.

    Returns:
        list[ClusterMap]: Stage by stage; titles count stages, blocks and heads from 1.

    Raises:
        ValueError: If there is no such stage, block or head.
    """
    maps = []
    for stage, (ids, scores, score_name) in zip(stages, token_clusters(backbone, image, stages, block), strict=True):
        ids = ids[0].cpu()  # (heads, H', W')
        scores = scores[0].cpu() if scores is not None else None
        scales = scales_of(backbone, stage)
        names = scales or [f'head {head + 1}' for head in range(len(ids))]
        title = f'stage {stage + 1}' + (f', block {block + 1}' if block >= 0 else '')
        stride = backbone.stage_strides[stage]
        if heads == 'mean' and scores is not None:
            mean = mean_of_heads(scores, int(ids.max()) + 1)
            maps.append(ClusterMap(f'{title}, mean of heads', stride, *mean, score_name))
            continue
        if isinstance(heads, int):
            drawn: Sequence[int] = [heads]
        else:
            drawn = {'all': range(len(ids)), 'mean': range(len(scales)) or [0]}.get(heads, [])
        if not drawn or not 0 <= drawn[0] < len(ids):
            raise ValueError(f"heads must be 'all', 'mean' or in [0, {len(ids) - 1}], got {heads!r}")
        for head in drawn:
            sorted_by = scores[head] if scores is not None else None
            maps.append(ClusterMap(f'{title}, {names[head]}', stride, ids[head], sorted_by, score_name))
    return maps


def visualize_clusters(
    backbone: Backbone, x: Tensor, stages: Sequence[int] | None = None, block: int = -1, heads: str | int = 'mean'
) -> Image.Image:
    """Draw the clusters of one image, a row for each stage and head, as :func:`cluster_sheet` does.

    Args:
        backbone (Backbone): The backbone.
        x (Tensor): (1, 3, H, W), as :func:`mmsec.datasets.image_files.load_image` makes it.
        stages (Sequence[int], optional): Stages from 0. Default: None, all that are built.
        block (int): As in :func:`cluster_maps`.
        heads (str | int): As in :func:`cluster_maps`.

    Returns:
        Image.Image: For a notebook to show, or ``.save('clusters.png')``.

    Raises:
        ValueError: If ``x`` is not one image, or there is no such stage, block or head.
    """
    if x.dim() != 4 or x.shape[:2] != (1, 3):
        raise ValueError(f'expected one image (1, 3, H, W), as load_image makes it, got {tuple(x.shape)}')
    if stages is None:
        stages = range(len(backbone.attention_layers()))
    values = x[0].permute(1, 2, 0).cpu().double().numpy() * STD + MEAN
    image = values.round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(cluster_sheet(image, cluster_maps(backbone, x, stages, block, heads)))


def cluster_sheet(image: np.ndarray, maps: Sequence[ClusterMap]) -> np.ndarray:
    """Draw a row for each map, at least one: the image, the clusters over it, and their scores, if any.

    The colours go from the cluster of the lowest scores to that of the highest, in every map, whatever its number of
    clusters. Clusters without scores are drawn as :func:`draw_together` says. Images are (H, W, 3) uint8, RGB; the
    sheet is 1200 pixels wide.
    """
    if not maps:
        raise ValueError('a sheet needs at least one map')
    columns = 3 if any(each.scores is not None for each in maps) else 2
    figure = Figure(figsize=(12, len(maps) * (9.6 / columns * flatness(image) + 0.55)), dpi=100, layout='constrained')
    rows = figure.subplots(len(maps), columns, squeeze=False)
    for row, each in zip(rows, maps, strict=True):
        picture, clusters = row[:2]
        picture.imshow(image)
        picture.set_title('image', fontsize='medium')
        colours = draw_clusters(clusters, image, each)
        num_clusters = int(each.ids.max()) + 1
        count = f'{num_clusters} clusters' if num_clusters > 1 else 'one cluster'
        clusters.set_title(f'{each.title}: {count}', fontsize='medium')
        if colours is not None and each.scores is not None:
            bounds = extent(each.ids, each.stride)
            scores = row[2].imshow(each.scores, cmap='magma', extent=bounds, interpolation='nearest')
            row[2].set_title(f'score: {each.score_name}', fontsize='medium')
            figure.colorbar(scores, ax=row[2], fraction=0.04)
            norm = BoundaryNorm(np.arange(num_clusters + 1) - 0.5, num_clusters)
            ticks = np.unique(np.linspace(0, num_clusters - 1, min(num_clusters, _TICKS)).round().astype(int))
            shown = ListedColormap(as_laid(colours(np.arange(num_clusters))))
            legend = figure.colorbar(ScalarMappable(norm, shown), ax=clusters, fraction=0.04, ticks=ticks)
            legend.minorticks_off()
            means = [each.scores[each.ids == cluster].mean().item() for cluster in ticks]
            legend.set_label('mean score of the cluster', fontsize='small')
            legend.ax.set_yticklabels([f'{mean:.2f}' for mean in means], fontsize='small')
        elif columns == 3:
            row[2].set_axis_off()
        for axes in row:
            frame(axes, image)
    return pixels(figure)


def draw_clusters(axes: Axes, image: np.ndarray, each: ClusterMap) -> ListedColormap | None:
    """Draw the clusters over the image in grey; the colours of clusters that have an order."""
    if each.scores is None:
        draw_together(axes, image, each)
        return None
    num_clusters = int(each.ids.max()) + 1
    colours = ListedColormap(colormaps[PALETTE](np.linspace(0, 1, num_clusters) if num_clusters > 1 else [0.5]))
    # Grey of little contrast, so that a colour is nearly the same everywhere, and that of the legend.
    draw_grey(axes, image, -128, 383)
    last, bounds = max(num_clusters - 1, 1), extent(each.ids, each.stride)
    axes.imshow(each.ids, cmap=colours, vmin=0, vmax=last, alpha=OPACITY, extent=bounds, interpolation='nearest')
    return colours


def draw_together(axes: Axes, image: np.ndarray, each: ClusterMap) -> int:
    """Draw clusters without order over the image in grey, with a line around each, and return their number.

    Tokens of one colour inside one line are one cluster. A token alone in its cluster has no colour.
    """
    _, ids, counts = np.unique(each.ids.numpy(), return_inverse=True, return_counts=True)
    ids = ids.reshape(each.ids.shape)
    together = counts[ids] > 1  # (H', W')
    hue = ids * _GOLDEN % 1
    over = np.ones((*ids.shape, 4))
    over[..., :3] = hsv_to_rgb(np.stack([hue, np.full(ids.shape, 0.9), np.where(ids % 2, 0.95, 0.7)], axis=-1))
    over[..., 3] = np.where(together, OPACITY, 0)
    draw_grey(axes, image)
    axes.imshow(over, extent=extent(each.ids, each.stride), interpolation='nearest')
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    rows, columns = np.nonzero(across & (together[:, 1:] | together[:, :-1]))
    axes.vlines((columns + 1) * each.stride, rows * each.stride, (rows + 1) * each.stride, 'white', linewidth=0.6)
    rows, columns = np.nonzero(down & (together[1:] | together[:-1]))
    axes.hlines((rows + 1) * each.stride, columns * each.stride, (columns + 1) * each.stride, 'white', linewidth=0.6)
    return len(counts)


def as_laid(colours: np.ndarray) -> np.ndarray:
    """RGBA colours over the mean grey of :func:`draw_clusters`, for legends."""
    return np.concatenate([OPACITY * colours[:, :3] + (1 - OPACITY) * 0.5, colours[:, 3:]], axis=1)
