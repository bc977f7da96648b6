"""Windows: tokens that are near each other attend to each other, whatever the map holds."""

import torch
from torch import Tensor

from mmsec.ops.grouping.grouping import Grouping, cluster_sizes, part_of
from mmsec.ops.grouping.method import GROUPINGS, GroupingMethod, Tokens, check_option


def window_order(
    height: int, width: int, num_clusters: int, device: torch.device | None = None, shifted: bool = False
) -> Tensor:
    """Tokens of a map, window after window; windows are as square as equal sizes allow.

    The map is cut into bands of rows, and each band, column by column, into windows. Where sizes do not fit the grid,
    the edges of bands and windows have a step of one token.

    Args:
        height (int): Rows H' of the map.
        width (int): Columns W' of the map.
        num_clusters (int): Windows M, 1 <= M <= H' * W'.
        device (torch.device, optional): Where the result lives. Default: the CPU.
        shifted (bool): Whether windows lie half a window lower and further right, rounded down. What leaves the map
            comes in on the other side, so a window there holds tokens of both sides. Default: False.

    Returns:
        Tensor: (H' * W',) int64 raster indices.

    Raises:
        ValueError: If ``num_clusters`` is not in [1, H' * W'].
    """
    num_tokens = height * width
    cluster_sizes(num_tokens, num_clusters)  # refuses a count that does not fit
    # Rows of windows that make a window as high as wide. It is a tensor, so that a compiled graph is good for any size.
    square = torch.full((), num_clusters * height, dtype=torch.float64, device=device) / width
    num_bands = square.sqrt().round().long().clamp(1, num_clusters)
    raster = torch.arange(num_tokens, device=device)
    row, column = raster // width, raster % width
    if shifted:
        row = (row - height // (2 * num_bands)) % height
        column = (column - width * num_bands // (2 * num_clusters)) % width
    window = part_of(row * width + column, num_tokens, num_clusters)
    band = part_of(window, num_clusters, num_bands)  # windows are dealt to the bands evenly
    return ((band * width + column) * height + row).argsort()  # by band, then column, then row


@GROUPINGS.register_module()
class WindowGrouping(GroupingMethod):
    """Group tokens by position, into :func:`window_order`'s windows.

    Args:
        shift (bool): Whether the windows of every second block are shifted by half a window, cyclically, beginning with
            the second block of a stage. Default: False.
    """

    def __init__(self, shift: bool = False) -> None:
        super().__init__()
        check_option('shift', shift, (True, False))
        self.shift = shift

    def forward(self, tokens: Tokens, num_clusters: int) -> Grouping:
        """Group the tokens; see :class:`GroupingMethod`."""
        shifted = self.shift and self.block % 2 == 1
        order = window_order(*tokens.size, num_clusters, tokens.token.device, shifted)[None, None]  # (1, 1, N)
        return Grouping(order, num_clusters)
