"""Pictures to click in: the clusters of one head over an image, and what one token attends to."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mmsec.visualization.clusters import ClusterMap, draw_clusters
from mmsec.visualization.drawing import OPACITY, draw_grey, extent, pixels

_LONGER, _SHORTER = 768, 48  # pixels of a picture's sides: always, and at least
_DOTS = 100


def picture_size(image: np.ndarray) -> tuple[int, int]:
    """Width and height of the pictures of an image (H, W, 3), whose axes they share from edge to edge."""
    height, width = image.shape[:2]
    scale = _LONGER / max(height, width)
    return max(round(width * scale), _SHORTER), max(round(height * scale), _SHORTER)


def token_at(each: ClusterMap, image: np.ndarray, place: tuple[float, float]) -> int:
    """The raster index of the token at a place of an image, given as shares of its width and height."""
    rows, columns = each.ids.shape
    column, row = (int(share * side) // each.stride for share, side in zip(place, image.shape[1::-1], strict=True))
    return min(max(row, 0), rows - 1) * columns + min(max(column, 0), columns - 1)


def cluster_picture(image: np.ndarray, each: ClusterMap, token: int) -> np.ndarray:
    """Draw clusters over an image (H, W, 3) uint8 RGB, and a frame around one token; uint8 RGB."""
    figure, axes = _canvas(image)
    draw_clusters(axes, image, each)
    return _framed(figure, axes, image, each, token)


def attended_picture(image: np.ndarray, each: ClusterMap, token: int, shares: Tensor | None = None) -> np.ndarray:
    """Draw the tokens of one token's cluster over an image, which is grey elsewhere, and a frame around the token.

    Args:
        image (np.ndarray): (H, W, 3) uint8, RGB.
        each (ClusterMap): The clusters.
        token (int): The raster index of the token.
        shares (Tensor, optional): (H', W') of the token's attention; the larger the share of a token, the brighter it
            is, by the square root. Default: None, the whole cluster in one colour.

    Returns:
        np.ndarray: Of :func:`picture_size`, uint8, RGB.
    """
    figure, axes = _canvas(image)
    together = (each.ids == each.ids.flatten()[token]).numpy()
    shade = (shares / shares.max()).sqrt().numpy() if shares is not None else np.full(together.shape, 0.7)
    colours = colormaps['plasma'](0.15 + 0.85 * shade)  # (H', W', 4)
    colours[..., 3] = OPACITY * together
    draw_grey(axes, image, -96, 480)
    axes.imshow(colours, extent=extent(each.ids, each.stride), interpolation='nearest')
    return _framed(figure, axes, image, each, token)


def _canvas(image: np.ndarray) -> tuple[Figure, Axes]:
    """A figure that the image fills up."""
    width, height = picture_size(image)
    figure = Figure(figsize=(width / _DOTS, height / _DOTS), dpi=_DOTS)
    return figure, figure.add_axes((0, 0, 1, 1))


def _framed(figure: Figure, axes: Axes, image: np.ndarray, each: ClusterMap, token: int) -> np.ndarray:
    """The picture with a black and white frame around a token."""
    row, column = divmod(token, each.ids.shape[1])
    corner = (column * each.stride, row * each.stride)
    for colour, width in (('black', 5), ('white', 2.5)):
        axes.add_patch(Rectangle(corner, each.stride, each.stride, fill=False, edgecolor=colour, linewidth=width))
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), aspect='auto')
    axes.set_axis_off()
    return pixels(figure)
