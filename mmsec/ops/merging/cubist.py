"""CubistMerge: every row of the grid merges as many neighbours, then every column; a smaller grid is left."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec.ops.kernels.conditions import makes_graph
from mmsec.ops.merging.matching import positions, unit
from mmsec.ops.merging.merging import Links, Merging
from mmsec.ops.merging.method import MERGINGS, MergingMethod
from mmsec.ops.merging.sizes import product, renamed, rounded

Similarity = Literal['cosine', 'euclidean']


@dataclass(frozen=True, eq=False)
class LargestMerging(Merging):
    """A merging whose merged tokens are, in each channel, the value of largest magnitude among their sources.

    Attributes:
        preference (Tensor): (N,) int64, each number of [0, N) once; of equal magnitudes the token with the lowest wins.
    """

    preference: Tensor = field(kw_only=True)

    def merge(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, T', C), whatever the weights; see :class:`Merging`."""
        index = self.assignment[..., None].expand(x.shape)
        magnitude = x.detach().abs()
        merged = x.shape[0], self.num_merged, x.shape[2]
        largest = magnitude.new_zeros(merged).scatter_reduce(1, index, magnitude, 'amax').gather(1, index)  # (B, N, C)
        candidates = torch.where(magnitude >= largest, self.preference[:, None], x.shape[1] - 1)
        chosen = index.new_full(merged, x.shape[1] - 1).scatter_reduce(1, index, candidates, 'amin')
        return x.gather(1, self.preference.argsort()[chosen])


@torch.no_grad()
def cubist(
    x: Tensor, grid: tuple[int, int], r: tuple[int, int], similarity: Similarity = 'cosine', protected: int = 0
) -> Merging:
    """Take as many tokens out of every row of a grid, and then out of every column of what is left.

    In a line of tokens each one at an odd place chooses the more similar of its two neighbours, of equals the left
    one; of all lines the most similar such pairs merge, of equals the left ones. So up to 3 x 3 tokens become one.

    Args:
        x (Tensor): (B, T, C): ``protected`` tokens, then the grid in raster order.
        grid (tuple[int, int]): Rows H and columns W of the grid; H * W = T - protected.
        r (tuple[int, int]): Rows and columns to remove, at most half of each.
        similarity (str): 'cosine', or 'euclidean' for the least distance.
        protected (int): Tokens at the front that never merge.

    Returns:
        Merging: Into the protected tokens and a grid of H - r rows and W - r columns, in raster order. A merged token
        is, in each channel, the value of largest magnitude among its tokens: a token at an even place wins equal ones.

    Raises:
        ValueError: If the tokens are not those of the grid.

    Source: CubistMerge (arXiv 2509.21764). Where two tokens choose the same one, the largest of all three is taken;
    the public code loses one of them.
    """
    (height, width), (batch, num_tokens, _) = grid, x.shape
    if height * width + protected != num_tokens:
        raise ValueError(f'a grid of {height} x {width} and {protected} more tokens are not {num_tokens} tokens')
    merged = height - r[0], width - r[1]
    rows = x[:, protected:].detach().unflatten(1, grid).flatten(0, 1)  # (B*H, W, C)
    in_rows = _merge_lines(rows, r[1], similarity)
    left = in_rows.merge(rows).unflatten(0, (batch, height))  # (B, H, W', C)
    in_columns = _merge_lines(left.transpose(1, 2).flatten(0, 1), r[0], similarity).assignment  # (B*W', H)
    column = in_rows.assignment.unflatten(0, (batch, height))  # (B, H, W)
    row = in_columns.unflatten(0, (batch, merged[1])).transpose(1, 2).gather(2, column)  # (B, H, W)
    index = (row * merged[1] + column).flatten(1)
    assignment = torch.cat([positions(batch, 0, protected, x.device), index + protected], dim=1)
    # The order of preference among equals: of a row by its columns, of the grid by its rows.
    first = _even_first(height, x.device)[:, None] * width + _even_first(width, x.device)
    preference = torch.cat([torch.arange(protected, device=x.device), first.flatten() + protected])
    return LargestMerging(Links(assignment[..., None], protected + merged[0] * merged[1]), preference=preference)


def _merge_lines(x: Tensor, r: int, similarity: Similarity) -> LargestMerging:
    """Take r tokens out of each line (L, n, C)."""
    if similarity == 'cosine':
        x = unit(x)
        alike = (x[:, 1:] * x[:, :-1]).sum(dim=-1)  # (L, n - 1), of each token and the next one
    else:
        alike = -(x[:, 1:] - x[:, :-1]).float().square().sum(dim=-1)
    left, right = (F.pad(alike, sides, value=-torch.inf) for sides in ((1, 0), (0, 1)))  # (L, n), to the neighbours
    is_odd = torch.arange(x.shape[1], device=x.device) % 2 == 1
    order = torch.maximum(left, right).masked_fill(~is_odd, -torch.inf).argsort(dim=1, descending=True, stable=True)
    goes = is_odd & (order.argsort(dim=1) < r)
    assignment = (~goes).cumsum(dim=1) - 1 + (goes & (right > left))
    return LargestMerging(Links(assignment[..., None], x.shape[1] - r), preference=_even_first(x.shape[1], x.device))


def _even_first(count: int, device: torch.device) -> Tensor:
    """(count,) int64; places numbered so that even ones come first."""
    place = torch.arange(count, device=device)
    return torch.where(place % 2 == 0, place // 2, (count + 1) // 2 + place // 2)


@MERGINGS.register_module()
@dataclass(frozen=True)
class CubistMerge(MergingMethod):
    """Merging of neighbours in rows and columns in front of one block; it and the blocks after it see a smaller grid.

    Args:
        after_block (int): Blocks that see all tokens, from 0. The published place depends on the model.
        r (int | float | Sequence): Rows and columns to remove, at most half of each: a number, or a share of the side
            in [0, 0.5], rounded down; one for both, or one for each.
        similarity (str): 'cosine', or 'euclidean' for the least distance of neighbours.

    Raises:
        ValueError: If an option is none of these, the network has no such block, or a map is too small for ``r``.

    Source: CubistMerge (arXiv 2509.21764).
    """

    after_block: int
    r: int | float | Sequence[int | float] = 0.1
    similarity: Similarity = 'cosine'

    place = 'before_block'

    def __post_init__(self) -> None:
        if not isinstance(self.after_block, int) or self.after_block < 0:
            raise ValueError(f'after_block of CubistMerge must be an integer of at least 0, got {self.after_block!r}')
        sides = self.r if isinstance(self.r, Sequence) else (self.r,)
        allowed = [r >= 0 if isinstance(r, int) else isinstance(r, float) and 0 <= r <= 0.5 for r in sides]
        if not all(allowed) or len(allowed) not in (1, 2) or isinstance(self.r, str):
            raise ValueError(
                f'r of CubistMerge must be rows and columns to remove, each an integer of at least 0, or a share of '
                f'the side in [0, 0.5], got {self.r!r}'
            )
        if self.similarity not in ('cosine', 'euclidean'):
            raise ValueError(f"similarity of CubistMerge must be 'cosine' or 'euclidean', got {self.similarity!r}")

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
        """See :class:`MergingMethod`; by :func:`cubist`."""
        self.check_blocks(depth, depth)
        if layer != self.after_block:
            return None
        height, width = self.merged_grid(grid)
        r = grid[0] - height, grid[1] - width
        if not makes_graph() and r == (0, 0):
            return None
        return cubist(features, grid, r, self.similarity, protected)

    def check_blocks(self, depth: int, built: int) -> None:
        """See :class:`MergingMethod`."""
        if self.after_block >= built:
            raise ValueError(
                f'after_block of CubistMerge must be below the number of blocks, {built}, got {self.after_block}'
            )

    def merged_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns that are left; see :class:`MergingMethod`."""
        numbers = self.r if isinstance(self.r, Sequence) else (self.r, self.r)
        height, width = (
            renamed(side - (r if isinstance(r, int) else rounded(product(r, side))), 2)
            for r, side in zip(numbers, grid, strict=True)
        )
        if not makes_graph() and (2 * height < grid[0] or 2 * width < grid[1]):
            raise ValueError(
                f'r of CubistMerge must be at most half of each side, got {self.r} for a map of {grid[0]} x {grid[1]} '
                'tokens: give a share such as 0.25, which fits all sizes'
            )
        return height, width
