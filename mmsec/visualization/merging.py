"""Mergings of a ViT -> pictures of which tokens became one."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from mmsec.visualization.clusters import ClusterMap
from mmsec.visualization.drawing import OPACITY, extent, flatness, frame, grey, pixels

_COLUMNS = 3
_GOLDEN = 0.618034  # step of the hue from one merged token to the next, so that similar hues are far apart


def merging_sheet(image: np.ndarray, maps: Sequence[ClusterMap]) -> np.ndarray:
    """Draw the image, and for each map the merged tokens over it.

    Tokens of one colour are one merged token. A token that merged with no other has no colour.

    Args:
        image (np.ndarray): (H, W, 3) uint8, RGB.
        maps (Sequence[ClusterMap]): At least one; their ids say which merged token each token is in.

    Returns:
        np.ndarray: (height, width, 3) uint8, RGB; 1200 pixels wide.

    Raises:
        ValueError: If there is no map.
    """
    if not maps:
        raise ValueError('a sheet needs at least one map')
    num_rows = -(-(len(maps) + 1) // _COLUMNS)
    figure = Figure(figsize=(12, num_rows * (4 * flatness(image) + 0.4)), dpi=100, layout='constrained')
    panels = figure.subplots(num_rows, _COLUMNS, squeeze=False).flatten()
    panels[0].imshow(image)
    panels[0].set_title('image', fontsize='medium')
    frame(panels[0], image)
    for axes, each in zip(panels[1 : len(maps) + 1], maps, strict=True):
        _draw(axes, image, each)
    for axes in panels[len(maps) + 1 :]:
        axes.set_axis_off()
    return pixels(figure)


def _draw(axes: Axes, image: np.ndarray, each: ClusterMap) -> None:
    """Lay the merged tokens over the image in grey, with a line around each."""
    _, ids, counts = np.unique(each.ids.numpy(), return_inverse=True, return_counts=True)
    ids = ids.reshape(each.ids.shape)
    together = counts[ids] > 1  # (H', W')
    hue = ids * _GOLDEN % 1
    over = np.ones((*ids.shape, 4))
    over[..., :3] = hsv_to_rgb(np.stack([hue, np.full(ids.shape, 0.9), np.where(ids % 2, 0.95, 0.7)], axis=-1))
    over[..., 3] = np.where(together, OPACITY, 0)
    axes.imshow(grey(image), cmap='gray', vmin=0, vmax=255)
    axes.imshow(over, extent=extent(each.ids, each.stride), interpolation='nearest')
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    rows, columns = np.nonzero(across & (together[:, 1:] | together[:, :-1]))
    axes.vlines((columns + 1) * each.stride, rows * each.stride, (rows + 1) * each.stride, 'white', linewidth=0.6)
    rows, columns = np.nonzero(down & (together[1:] | together[:-1]))
    axes.hlines((rows + 1) * each.stride, columns * each.stride, (columns + 1) * each.stride, 'white', linewidth=0.6)
    axes.set_title(f'{each.title}: {len(counts)} of {ids.size} tokens', fontsize='medium')
    frame(axes, image)
