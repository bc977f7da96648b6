"""Windows: tokens that are near each other attend to each other, whatever the map holds."""

import torch

from mmsec.ops.grouping.grouping import Grouping, cluster_sizes, grouping_from_order
from mmsec.ops.grouping.method import GroupingMethod, Tokens, register_grouping


def window_order(height: int, width: int, num_clusters: int, device: torch.device | None = None) -> torch.Tensor:
    """Tokens of a map, window after window; windows are as square as equal sizes allow.

    The map is cut into bands of rows, and each band, column by column, into windows. Where sizes do not fit the grid,
    the edges of bands and windows have a step of one token.

    Args:
        height (int): Rows H' of the map.
        width (int): Columns W' of the map.
        num_clusters (int): Windows M, 1 <= M <= H' * W'.
        device (torch.device, optional): Where the result lives. Default: the CPU.

    Returns:
        Tensor: (H' * W',) int64 raster indices.

    Raises:
        ValueError: If ``num_clusters`` is not in [1, H' * W'].
    """
    num_long, num_short, length = cluster_sizes(height * width, num_clusters)
    # Rows of windows that make a window as high as wide, and windows dealt to them evenly.
    num_bands = max(1, min(num_clusters, round((num_clusters * height / width) ** 0.5)))
    sizes = torch.tensor([length + 1] * num_long + [length] * num_short, device=device)
    band_ends = torch.stack([part.sum() for part in sizes.tensor_split(num_bands)]).cumsum(0)
    raster = torch.arange(height * width, device=device)
    band = torch.searchsorted(band_ends, raster, right=True)
    key = (band * width + raster % width) * height + raster // width  # by band, then column, then row
    return key.argsort()


@register_grouping
class WindowGrouping(GroupingMethod):
    """Group tokens by place, into :func:`window_order`'s windows."""

    def forward(self, tokens: Tokens, num_clusters: int) -> Grouping:
        """Group the tokens; see :class:`GroupingMethod`."""
        order = window_order(*tokens.size, num_clusters, tokens.key.device)[None, None]  # (1, 1, N)
        return grouping_from_order(order, num_clusters)
