"""What every way of merging looks like to the backbone that uses it, and the table that finds one by its name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import ClassVar, Literal

from torch import Tensor

from mmsec.ops.merging.merging import Merging

MERGINGS: dict[str, type['MergingMethod']] = {}


class MergingMethod(ABC):
    """A way of merging tokens in the blocks of a plain ViT. A method is a frozen dataclass of its options.

    A new one is a file in this package with a subclass that :func:`register_merging` enters into the table.

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

    def check_blocks(self, depth: int, run: int) -> None:  # noqa: B027  # most fit every network
        """Refuse a network that the options do not fit; here none.

        Args:
            depth (int): Number of blocks.
            run (int): Blocks that run, the first ones: a backbone builds none behind the last map that it returns.

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


def register_merging(method: type[MergingMethod]) -> type[MergingMethod]:
    """Enter a way of merging into the table under its class name."""
    MERGINGS[method.__name__] = method
    return method


def build_merging(options: Mapping[str, object]) -> MergingMethod:
    """Make the way of merging that a config names.

    Args:
        options (Mapping): ``type``, a name in the table, and the options of that class.

    Returns:
        MergingMethod: The method.

    Raises:
        ValueError: If the type or an option is unknown, missing or out of its range; one line says what is allowed.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f'merging must be a dict with a type, one of {", ".join(sorted(MERGINGS))}, got {options!r}')
    options = dict(options)
    name = options.pop('type', None)
    if not isinstance(name, str) or name not in MERGINGS:
        raise ValueError(f'type of merging must be one of {", ".join(sorted(MERGINGS))}, got {name!r}')
    known = fields(MERGINGS[name])  # type: ignore[arg-type]  # each is a dataclass of its options
    takes = ', '.join(field.name for field in known)
    for option in options:
        if option not in {field.name for field in known}:
            raise ValueError(f'merging {name} has no option {option!r}; it takes {takes}')
    for field in known:
        if field.name not in options and field.default is MISSING:
            raise ValueError(f'merging {name} needs the option {field.name!r}; it takes {takes}')
    return MERGINGS[name](**options)
