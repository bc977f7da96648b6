"""Clusters of a backbone -> cluster maps -> pictures over the image; no files."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmsec.models import SecViT
from mmsec.ops import Grouping, cluster_ranks

PALETTE = 'viridis'  # ordered in brightness, readable by the colour-blind
_GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601
_TICKS = 8
_OPACITY = 0.7  # of what is laid over an image
_CONTOUR_PIXELS = 400
_UNLABELLED = 255  # of mmsegmentation


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


class Regions(NamedTuple):
    """Areas of an image that have a class: instances of a detector, or all pixels of a class of a segmenter.

    Attributes:
        masks (np.ndarray): (n, H, W) bool, larger areas first, so that smaller ones come to lie on top.
        labels (np.ndarray): (n,) int64.
    """

    masks: np.ndarray
    labels: np.ndarray


class SheetRow(NamedTuple):
    """What a contact sheet shows of an image.

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


def regions(sample: BaseDataElement, kind: str, score_thr: float = 0.0, num_classes: int | None = None) -> Regions:
    """Take the areas out of a data sample of mmdetection or mmsegmentation.

    Args:
        sample (BaseDataElement): A DetDataSample or SegDataSample.
        kind (str): 'gt' or 'pred'.
        score_thr (float): Predicted instances below this score are left out. Default: 0.
        num_classes (int, optional): Labels from here on, which a data set may use for what is not labelled, are left
            out. Default: None, only mmsegmentation's 255 is.

    Returns:
        Regions: Masks of the instances, their boxes where they have no masks, or one area for each class; none if the
        sample holds none of them.
    """
    if f'{kind}_sem_seg' in sample:
        label_map = sample.get(f'{kind}_sem_seg').data[0].cpu().numpy()  # (H, W)
        labels = np.array([label for label in np.unique(label_map) if label != _UNLABELLED], np.int64)
        masks = np.stack([label_map == label for label in labels]) if len(labels) else None
    elif len(sample.get(f'{kind}_instances', ())):
        instances = sample.get(f'{kind}_instances')
        if 'scores' in instances:
            instances = instances[instances.scores >= score_thr]
        labels = instances.labels.cpu().numpy()
        if 'masks' in instances:
            masks = instances.masks
            masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else torch.as_tensor(masks).cpu().numpy()
        else:
            masks = _box_masks(instances.bboxes, sample.ori_shape)
    else:
        masks = None
    if masks is None or not len(masks):
        return Regions(np.zeros((0, 1, 1), bool), np.zeros(0, np.int64))
    masks = masks.astype(bool)
    if num_classes is not None:
        masks, labels = masks[labels < num_classes], labels[labels < num_classes]
    largest_first = np.argsort(-masks.sum((1, 2)), kind='stable')
    return Regions(masks[largest_first], labels[largest_first])


def _box_masks(boxes: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """(n, 4) boxes as corners, or mmdetection's box structure, as filled (n, H, W) bool masks."""
    masks = np.zeros((len(boxes), *shape[:2]), bool)
    for mask, (left, top, right, bottom) in zip(masks, getattr(boxes, 'tensor', boxes).tolist(), strict=True):
        mask[max(round(top), 0) : round(bottom), max(round(left), 0) : round(right)] = True
    return masks


def as_seen(preprocessor: BaseDataPreprocessor, sample: dict) -> tuple[np.ndarray, Tensor]:
    """What a detector or segmenter sees of a sample that its test pipeline made.

    Args:
        preprocessor (BaseDataPreprocessor): The model's.
        sample (dict): ``inputs``, a (3, H, W) uint8 BGR tensor, and ``data_samples``.

    Returns:
        tuple[np.ndarray, Tensor]: The image at the size the model sees, (H, W, 3) uint8 RGB, and the backbone's input,
        (1, 3, H', W') normalised, on its device, where H' and W' may be padded.
    """
    batch = preprocessor(pseudo_collate([sample]), False)['inputs']
    return sample['inputs'].flip(0).permute(1, 2, 0).cpu().numpy(), batch


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


def cluster_maps(
    backbone: SecViT, image: Tensor, stages: Sequence[int], block: int = -1, heads: str | int = 'mean'
) -> list[ClusterMap]:
    """Ask a backbone for the clusters of one image.

    Args:
        backbone (SecViT): The backbone.
        image (Tensor): (1, in_channels, H, W), normalised as the backbone wants it.
        stages (Sequence[int]): Stages from 0.
        block (int): Block of each stage from 0, or from its end if negative. Default: -1.
        heads (str | int): 'all' for a map of each head, 'mean' for :func:`mean_of_heads`, or one head from 0. Default:
            'mean'.

    Returns:
        list[ClusterMap]: Stage by stage; titles count stages, blocks and heads from 1.

    Raises:
        ValueError: If there is no such stage, block or head.
    """
    maps = []
    for stage, (ranks, scores) in zip(stages, backbone.clusters(image, stages, block), strict=True):
        ranks, scores = ranks[0].cpu(), scores[0].cpu()  # (heads, H', W') each
        title = f'stage {stage + 1}' + (f', block {block + 1}' if block >= 0 else '')
        stride = 4 << stage
        if heads == 'mean':
            maps.append(ClusterMap(f'{title}, mean of heads', stride, *mean_of_heads(scores, int(ranks.max()) + 1)))
            continue
        if heads != 'all' and heads not in range(len(ranks)):
            raise ValueError(f"heads must be 'all', 'mean' or in [0, {len(ranks) - 1}], got {heads!r}")
        for head in range(len(ranks)) if heads == 'all' else [heads]:
            maps.append(ClusterMap(f'{title}, head {head + 1}', stride, ranks[head], scores[head]))
    return maps


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
    figure = Figure(figsize=(12, len(maps) * (3.2 * _flatness(image) + 0.55)), dpi=100, layout='constrained')
    rows = figure.subplots(len(maps), 3, squeeze=False)
    for (picture, clusters, scores), each in zip(rows, maps, strict=True):
        picture.imshow(image)
        picture.set_title('image', fontsize='medium')
        colours = _draw_clusters(clusters, image, each)
        num_clusters = colours.N
        count = f'{num_clusters} clusters' if num_clusters > 1 else 'one cluster'
        clusters.set_title(f'{each.title}: {count}', fontsize='medium')
        drawn = scores.imshow(each.scores, cmap='magma', extent=_extent(each), interpolation='nearest')
        scores.set_title('score: cosine with the mean key', fontsize='medium')
        figure.colorbar(drawn, ax=scores, fraction=0.04)
        norm = BoundaryNorm(np.arange(num_clusters + 1) - 0.5, num_clusters)
        ticks = np.unique(np.linspace(0, num_clusters - 1, min(num_clusters, _TICKS)).round().astype(int))
        shown = ListedColormap(_as_laid(colours(np.arange(num_clusters))))
        legend = figure.colorbar(ScalarMappable(norm, shown), ax=clusters, fraction=0.04, ticks=ticks)
        means = [each.scores[each.ranks == rank].mean().item() for rank in ticks]
        legend.minorticks_off()
        legend.set_label('mean score of the cluster', fontsize='small')
        legend.ax.set_yticklabels([f'{mean:.2f}' for mean in means], fontsize='small')
        for axes in (picture, clusters, scores):
            _frame(axes, image)
    return pixels(figure)


def contact_sheet(
    rows: Sequence[SheetRow], classes: Sequence[str], palette: Sequence[Sequence[int]] | None
) -> np.ndarray:
    """Draw a row for each image: image, truth, prediction, and clusters of some stages.

    Args:
        rows (Sequence[SheetRow]): At least one.
        classes (Sequence[str]): Names.
        palette (Sequence[Sequence[int]], optional): An RGB colour, 0 to 255, for each class; without, any.

    Returns:
        np.ndarray: (height, width, 3) uint8, RGB; 1200 pixels wide.

    Raises:
        ValueError: If there is no row.
    """
    if not rows:
        raise ValueError('a contact sheet needs at least one row')
    if palette is None:
        palette = [np.multiply(colormaps['tab20'](i % 20)[:3], 255) for i in range(len(classes))]
    columns = 3 + len(rows[0].maps)
    heights = [_flatness(row.image) for row in rows]
    shown = np.unique(np.concatenate([each.labels for row in rows for each in (row.truth, row.prediction)]))
    longest = max((len(classes[label]) for label in shown), default=0)
    legend_columns = max(1, int(12 / (0.7 + 0.1 * longest)))  # inches
    legend_lines = -(-len(shown) // legend_columns)
    height = 12 / columns * sum(heights) + 0.7 + 0.25 * legend_lines
    figure = Figure(figsize=(12, height), dpi=100, layout='constrained')
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    titles = ['image', 'truth', 'prediction', *(f'clusters, {each.title.split(",")[0]}' for each in rows[0].maps)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize='medium')
    for line, row in zip(grid, rows, strict=True):
        line[0].imshow(row.image)
        for axes, areas in zip(line[1:3], (row.truth, row.prediction), strict=True):
            _draw_regions(axes, row.image, areas, palette)
        for axes, each in zip(line[3:], row.maps, strict=True):
            _draw_clusters(axes, row.image, each)
        for axes in line:
            _frame(axes, row.image)
    if rows[0].maps:
        bar = ScalarMappable(cmap=ListedColormap(_as_laid(colormaps[PALETTE](np.linspace(0, 1, 256)))))
        legend = figure.colorbar(bar, ax=grid, location='bottom', aspect=80, pad=0.01, ticks=[0, 1])
        legend.ax.set_xticklabels(['clusters: least similar to the mean key', 'most similar'])
        for label, side in zip(legend.ax.get_xticklabels(), ('left', 'right'), strict=True):
            label.set_horizontalalignment(side)
    patches = [Patch(color=np.array(palette[label]) / 255, label=classes[label]) for label in shown]
    if patches:
        figure.legend(handles=patches, loc='outside lower center', ncols=legend_columns, frameon=False)
    return pixels(figure)


def _draw_regions(axes: Axes, image: np.ndarray, areas: Regions, palette: Sequence[Sequence[int]]) -> None:
    """Lay areas over the image in the colours of their classes, outlined."""
    height, width = image.shape[:2]
    axes.imshow(image)
    over = np.zeros((*areas.masks.shape[1:], 4), np.uint8)
    for mask, label in zip(*areas, strict=True):
        over[mask] = *palette[label], round(_OPACITY * 255)
    axes.imshow(over, extent=(0, width, height, 0), interpolation='nearest')
    step = max(1, max(over.shape) // _CONTOUR_PIXELS)  # no outline needs more than the panel has
    for mask in areas.masks[:, ::step, ::step]:
        if min(mask.shape) > 1 and mask.any() and not mask.all():
            x = (np.arange(mask.shape[1]) + 0.5) * width / mask.shape[1]
            y = (np.arange(mask.shape[0]) + 0.5) * height / mask.shape[0]
            axes.contour(x, y, mask, levels=[0.5], colors='white', linewidths=0.8)


def _flatness(image: np.ndarray) -> float:
    """Height over width of the image's panel; very flat or tall images keep room for the text."""
    return min(max(image.shape[0] / image.shape[1], 0.3), 1.5)


def _extent(each: ClusterMap) -> tuple[int, int, int, int]:
    """Where the map lies on the image; the last tokens of a row may reach beyond it."""
    height, width = each.ranks.shape
    return 0, width * each.stride, height * each.stride, 0


def _draw_clusters(axes: Axes, image: np.ndarray, each: ClusterMap) -> ListedColormap:
    """Lay the clusters over the image in grey, and return their colours."""
    num_clusters = int(each.ranks.max()) + 1
    colours = ListedColormap(colormaps[PALETTE](np.linspace(0, 1, num_clusters) if num_clusters > 1 else [0.5]))
    # Grey of little contrast, so that a colour is nearly the same wherever it lies, and that of the legend.
    axes.imshow((image @ _GREY).astype(np.uint8), cmap='gray', vmin=-128, vmax=383)
    last = max(num_clusters - 1, 1)
    where = dict(extent=_extent(each), interpolation='nearest')
    axes.imshow(each.ranks, cmap=colours, vmin=0, vmax=last, alpha=_OPACITY, **where)
    return colours


def _as_laid(colours: np.ndarray) -> np.ndarray:
    """RGBA colours as they look over the mean grey of :func:`_draw_clusters`."""
    return np.concatenate([_OPACITY * colours[:, :3] + (1 - _OPACITY) * 0.5, colours[:, 3:]], axis=1)


def _frame(axes: Axes, image: np.ndarray) -> None:
    """Show what lies on the image, at its aspect, without ticks."""
    height, width = image.shape[:2]
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect='equal')


def pixels(figure: Figure) -> np.ndarray:
    """Draw a figure as (height, width, 3) uint8, RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
