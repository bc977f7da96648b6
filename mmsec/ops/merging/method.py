"""The interface of a merging method, and the registry that finds one by its name."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import Tensor

from mmsec.ops.merging.merging import Merging
from mmsec.ops.registry import Registry

MERGINGS = Registry('merging')


class MergingMethod(ABC):
    """A way of merging tokens in the blocks of a plain ViT. A method is a frozen dataclass of its options.

    A new one is a file in this package with a subclass under ``@MERGINGS.register_module()``.

    Attributes:
        place (str): Where in a block it merges, and so which features it compares:

            - 'after_attention': between attention and MLP, by the keys of the attention, averaged over heads. Later
              blocks keep the merged tokens.
            - 'after_block': behind a block, by the tokens. Later blocks keep the merged tokens.
            - 'before_block': in front of a block, by the tokens. It and later blocks keep the merged tokens; a map of
              the block before it is still whole.
            - 'around_attention': around the attention, by the tokens that come into the block. The output of the
              attention is unmerged at once, so every block sees all tokens.

        compares (str): What 'after_attention' compares: 'keys', or 'tokens', those behind the attention's residual.
        proportional_attention (bool): Whether attention adds log(size) of the key's token to the logits.
        fills_up (bool): Whether how many tokens merge depends on the image. In a batch, an image with fewer merged
            tokens than another is filled up with empty ones of size 0, which no token attends to.
    """

    place: ClassVar[Literal['after_attention', 'after_block', 'before_block', 'around_attention']]
    compares: ClassVar[Literal['keys', 'tokens']] = 'keys'
    proportional_attention: bool = False
    fills_up: ClassVar[bool] = False

    @abstractmethod
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
        """Find what merges in one block.

        Args:
            features (Tensor): (B, T, d) what tokens are compared by, as :attr:`place` says.
            layer (int): Block, counted from 0.
            depth (int): Number of blocks.
            grid (tuple[int, int]): Rows and columns of the map of all tokens, before any merging.
            protected (int): Tokens at the front that never merge, such as class and register tokens. They stay at the
                front.
            sizes (Tensor, optional): (B, T); how many tokens each is made of, 0 for what only fills up the image.
                None if each is one. Only methods that :attr:`fills_up` meet a 0.

        Returns:
            Merging, optional: From T tokens to fewer; None where this block merges nothing. A graph of
            ``torch.jit.trace`` does what was done at the traced size: trace, and run, sizes at which tokens merge.
        """

    def check_blocks(self, depth: int, built: int) -> None:  # noqa: B027  # most fit every network
        """Refuse a network that the options do not fit; here none.

        Args:
            depth (int): Number of blocks.
            built (int): Blocks that are built, the first ones: none behind the last map that is returned.

        Raises:
            ValueError: If the options do not fit.
        """

    def merged_grid(self, grid: tuple[int, int]) -> tuple[int, int] | None:
        """The grid that the merged tokens are left in, for attention in windows or clusters.

        Args:
            grid (tuple[int, int]): Rows and columns of the map of all tokens.

        Returns:
            tuple[int, int], optional: Rows and columns of the merged tokens, in raster order; None where they have no
            grid.
        """
        return None


def check_layers(method: Any, built: int | None = None) -> None:
    """Refuse ``layers`` of a method that are no ascending indices of blocks, below the number that is built if given.

    Raises:
        ValueError: Names the method and the number.
    """
    name, layers = type(method).__name__, method.layers
    ascending = isinstance(layers, Sequence) and len(layers) > 0 and all(isinstance(each, int) for each in layers)
    if not ascending or layers[0] < 0 or any(a >= b for a, b in pairwise(layers)):
        raise ValueError(f'layers of {name} must be indices of blocks from 0 in ascending order, got {layers!r}')
    if built is not None and layers[-1] >= built:
        raise ValueError(f'layers of {name} must be below the number of blocks, {built}, got {tuple(layers)}')
