"""The tokens of a plain ViT between two blocks, and what merges them.

First come protected tokens, which never merge (class and register tokens), then those of the map.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from mmsec.ops import coordinate_table, token_centers
from mmsec.ops.merging import Merging, MergingMethod


class Places(NamedTuple):
    """Where tokens are, for rotary positions.

    Attributes:
        coordinates (Tensor): ([B,] P + T, 2); 0 of protected tokens, which are not rotated.
        periods (Tensor): (d/4,) of the angles.
        table (Tensor): ([B,] P + T, d/2, 2) of the angles at the coordinates.
    """

    coordinates: Tensor
    periods: Tensor
    table: Tensor

    @classmethod
    def of_grid(cls, grid: tuple[int, int], protected: int, periods: Tensor) -> 'Places':
        """Of protected tokens and those of a grid, the same in all images."""
        coordinates = F.pad(token_centers(*grid, periods.dtype, periods.device), (0, 0, protected, 0))
        return cls(coordinates, periods, coordinate_table(coordinates, periods))

    def merge(self, merging: Merging, sizes: Tensor | None) -> 'Places':
        """Of merged tokens: the mean of their sources', each weighted by how many tokens it stands for."""
        coordinates = merging.merge(self.coordinates.expand(merging.shares.index.shape[0], -1, -1), sizes)
        return Places(coordinates, self.periods, coordinate_table(coordinates, self.periods))


class TokenList(NamedTuple):
    """The tokens between two blocks.

    Attributes:
        x (Tensor): (B, P + T, C): the protected tokens, then those that were not merged away.
        protected (int): Protected tokens P.
        map_size (tuple[int, int]): Rows H' and columns W' of the map of all tokens, before any merging.
        grid (tuple[int, int], optional): Rows and columns of the T tokens, in raster order; None where merging left
            no grid.
        sizes (Tensor, optional): (B, P + T); how many tokens each was merged of, 0 where it only fills up an image of
            a batch; None if each is one.
        merging (Merging, optional): All mergings so far as one, of P + H' * W' tokens; None if nothing merged.
        places (Places, optional): Where tokens are; None if positions are not rotary.
    """

    x: Tensor
    protected: int
    map_size: tuple[int, int]
    grid: tuple[int, int] | None
    sizes: Tensor | None = None
    merging: Merging | None = None
    places: Places | None = None

    @property
    def rotary(self) -> Tensor | None:
        """([B,] P + T, d/2, 2) by which queries and keys are rotated, if they are."""
        return self.places.table if self.places else None

    def merge(self, merging: Merging, grid: tuple[int, int] | None) -> 'TokenList':
        """Merge these tokens, each weighted by how many it stands for, and leave a grid of that size, if any."""
        sizes = merging.sizes if self.sizes is None else merging.sum(self.sizes[..., None])[..., 0]
        total = merging if self.merging is None else self.merging.then(merging)
        x, places = merging.merge(self.x, self.sizes), self.places
        if places and grid:
            places = Places.of_grid(grid, self.protected, places.periods)
        elif places:
            places = places.merge(merging, self.sizes)
        return self._replace(x=x, grid=grid, sizes=sizes, merging=total, places=places)

    def map(self) -> Tensor:
        """(B, C, H', W'); the map of all tokens, rebuilt from the merged ones."""
        x = self.x if self.merging is None else self.merging.unmerge(self.x)
        return x[:, self.protected :].unflatten(1, self.map_size).permute(0, 3, 1, 2)


class Merge(NamedTuple):
    """What merges tokens in a block.

    Attributes:
        method (MergingMethod): Finds what merges.
        layer (int): Index of the block, from 0.
        depth (int): Blocks of the model.
    """

    method: MergingMethod
    layer: int
    depth: int

    def find(self, features: Tensor, tokens: TokenList) -> Merging | None:
        """What merges of the tokens, by features (B, P + T, d)."""
        return self.method(
            features,
            layer=self.layer,
            depth=self.depth,
            grid=tokens.map_size,
            protected=tokens.protected,
            sizes=tokens.sizes,
        )

    def apply(self, features: Tensor, tokens: TokenList) -> TokenList:
        """The tokens, merged by features (B, P + T, d)."""
        merging = self.find(features.detach(), tokens)  # a trace does not keep no_grad
        return tokens if merging is None else tokens.merge(merging, self.method.merged_grid(tokens.map_size))
