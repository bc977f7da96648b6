"""The interface of a merging method, and the registry that finds one by its name."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

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
            - 'around_attention': around the attention, by the tokens that come into the block. The output of the
              attention is unmerged at once, so every block sees all tokens.

        proportional_attention (bool): Whether attention adds log(size) of the key's token to the logits.
    """

    place: ClassVar[Literal['after_attention', 'after_block', 'around_attention']]
    proportional_attention: bool = False

    @abstractmethod
    def __call__(
        self, features: Tensor, *, layer: int, depth: int, grid: tuple[int, int], protected: int = 0
    ) -> Merging | None:
        """Find what merges in one block.

        Args:
            features (Tensor): (B, T, d) what tokens are compared by, as :attr:`place` says.
            layer (int): Block, counted from 0.
            depth (int): Number of blocks.
            grid (tuple[int, int]): Rows and columns of the map of all tokens, before any merging.
            protected (int): Tokens at the front that never merge, such as class and register tokens. They stay at the
                front.

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
