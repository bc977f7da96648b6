"""The tokens of a plain ViT between two blocks, and what merges them.

First come protected tokens, which never merge (class and register tokens), then those of the map.
"""

from typing import NamedTuple

from torch import Tensor

from mmsec.ops.merging import Merging, MergingMethod


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
    """

    x: Tensor
    protected: int
    map_size: tuple[int, int]
    grid: tuple[int, int] | None
    sizes: Tensor | None = None
    merging: Merging | None = None

    def merge(self, merging: Merging, grid: tuple[int, int] | None) -> 'TokenList':
        """Merge these tokens, each weighted by how many it stands for, and leave a grid of that size, if any."""
        sizes = merging.sizes if self.sizes is None else merging.sum(self.sizes[..., None])[..., 0]
        total = merging if self.merging is None else self.merging.then(merging)
        x = merging.merge(self.x, self.sizes)
        return self._replace(x=x, grid=grid, sizes=sizes, merging=total)

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
