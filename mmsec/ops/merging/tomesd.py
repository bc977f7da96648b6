"""ToMeSD: token merging that keeps the grid, for it is undone after each module."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmsec.ops.merging.matching import best_pairs, cut, merge_pairs, positions, unit
from mmsec.ops.merging.merging import Merging
from mmsec.ops.merging.method import MERGINGS, MergingMethod
from mmsec.ops.merging.sizes import at_most, product, rounded


@torch.no_grad()
def tomesd(metric: Tensor, grid: tuple[int, int], ratio: float, stride: int = 2, protected: int = 0) -> Merging:
    """Merge tokens into the first token of a cell of the grid.

    The grid is cut into cells of ``stride`` x ``stride`` tokens from the top left; at the right and the bottom a cell
    may be smaller. The first token of each cell stays. Each other token chooses the most similar of those, by
    cosine, and the most similar pairs merge.

    Args:
        metric (Tensor): (B, T, d) what tokens are compared by: ``protected`` tokens, then the grid in raster order.
        grid (tuple[int, int]): Rows H and columns W of the grid; H * W = T - protected.
        ratio (float): Share of the grid's tokens to remove; r = floor(ratio * H * W), at most all but one of each cell.
        stride (int): Height and width of a cell.
        protected (int): Tokens at the front that never merge.

    Returns:
        Merging: Into T - r tokens: the protected ones, those that did not merge, the first ones of cells, each in
        raster order.

    Raises:
        ValueError: If the tokens are not those of the grid.

    Source: Token Merging for Fast Stable Diffusion (arXiv 2303.17604), section 3; without the random choice.
    """
    batch, num_tokens, _ = metric.shape
    height, width = grid
    if height * width + protected != num_tokens:
        raise ValueError(f'a grid of {height} x {width} and {protected} more tokens are not {num_tokens} tokens')
    stays = torch.zeros(height, width, dtype=torch.bool, device=metric.device)
    stays[::stride, ::stride] = True
    num_targets = -(-height // stride) * -(-width // stride)
    # A stable sort finds them without waiting for the device, as nonzero would.
    raster = stays.flatten().to(torch.uint8).argsort(stable=True).expand(batch, -1) + protected
    sources, targets = raster.split([height * width - num_targets, num_targets], dim=1)
    r = at_most(rounded(product(ratio, height, width)), sources.shape[1])
    if r == 0:
        return merge_pairs(num_tokens, positions(batch, 0, num_tokens, metric.device), sources[:, :0], sources[:, :0])
    sources, partner = best_pairs(unit(metric), sources, targets)
    front = positions(batch, 0, protected, metric.device)
    kept = torch.cat([front, cut(sources, r, sources.shape[1] - r).sort(dim=1).values, targets], dim=1)
    return merge_pairs(num_tokens, kept, cut(sources, 0, r), cut(partner, 0, r) + kept.shape[1] - num_targets)


@MERGINGS.register_module()
@dataclass(frozen=True)
class ToMeSD(MergingMethod):
    """Token merging around the attention of every block; the grid stays whole.

    Args:
        ratio (float): Share of tokens that the attention does without, in [0, 1 - 1 / stride^2].
        stride (int): Height and width of the cells that keep one token each; at least 2.

    Raises:
        ValueError: If an option is none of these.

    Source: Token Merging for Fast Stable Diffusion (arXiv 2303.17604).
    """

    ratio: float
    stride: int = 2

    place = 'around_attention'

    def __post_init__(self) -> None:
        if not isinstance(self.stride, int) or self.stride < 2:
            raise ValueError(f'stride of ToMeSD must be an integer of at least 2, got {self.stride}')
        most = 1 - self.stride**-2
        if not isinstance(self.ratio, (int, float)) or not 0 <= self.ratio <= most:
            raise ValueError(
                f'ratio of ToMeSD must be in [0, {most:.4g}], for one token of each {self.stride} x {self.stride} '
                f'cell stays, got {self.ratio}'
            )

    def __call__(
        self,
        features: Tensor,
        *,
        layer: int,
        depth: int,
        grid: tuple[int, int],
        protected: int = 0,
        sizes: Tensor | None = None,
    ) -> Merging | None:
        """See :class:`MergingMethod`; by :func:`tomesd`."""
        merging = tomesd(features, grid, self.ratio, self.stride, protected)
        return merging if merging.num_merged < merging.num_tokens else None
