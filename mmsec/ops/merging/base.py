"""What every method of merging looks like to the backbone that uses it."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from mmsec.ops.merging.merging import Merging


class MergingMethod(ABC):
    """A way of merging tokens in the blocks of a plain ViT. A method is a frozen dataclass of its options.

    Attributes:
        place (str): Where in a block it merges, and so which features it compares:

            - 'after_attention': between attention and MLP, by the keys of the attention, averaged over heads. Later
              blocks keep the merged tokens.
            - 'after_block': behind a block, by the tokens. Later blocks keep the merged tokens.
            - 'around_attention': before the attention, by its input tokens. The output of the attention is unmerged
              at once, so every block sees all tokens.

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
            Merging, optional: From T tokens to fewer; None where this block merges nothing.
        """
