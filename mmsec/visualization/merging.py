"""Mergings of a ViT -> pictures of which tokens became one."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mmsec.visualization.clusters import ClusterMap, draw_together
from mmsec.visualization.drawing import flatness, frame, pixels

_COLUMNS = 3


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
        count = draw_together(axes, image, each)
        axes.set_title(f'{each.title}: {count} of {each.ids.numel()} tokens', fontsize='medium')
        frame(axes, image)
    for axes in panels[len(maps) + 1 :]:
        axes.set_axis_off()
    return pixels(figure)
