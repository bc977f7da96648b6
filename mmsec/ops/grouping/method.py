"""What every way of grouping looks like, and the table that finds one by its name."""

import inspect
from typing import NamedTuple

from torch import Tensor, nn

from mmsec.ops.grouping.grouping import Grouping

GROUPINGS: dict[str, type['GroupingMethod']] = {}


class Tokens(NamedTuple):
    """What a grouping may look at: the tokens of one attention layer.

    Attributes:
        query (Tensor): (B, N, h, d), as attention uses them (rotated).
        key (Tensor): (B, N, h, d), as attention uses them (rotated).
        value (Tensor): (B, N, h, d).
        token (Tensor): (B, N, h, d), the normalised input of the layer, its channels split by heads.
        size (tuple[int, int]): Rows H' and columns W' of the map, H' * W' = N.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    token: Tensor
    size: tuple[int, int]


class GroupingMethod(nn.Module):
    """A way of grouping tokens, one object for each attention layer; it has no weights.

    A new one is a file in this package with a subclass that :func:`register_grouping` enters into the table.

    Attributes:
        block (int): Place of the layer's block in its stage, from 0.
        score_name (str): What :meth:`scores` are, for figures.
    """

    block: int = 0
    score_name: str = ''

    def __init__(self) -> None:  # no options, where a subclass has none: nn.Module's would take any
        super().__init__()

    def forward(self, tokens: Tokens, num_clusters: int) -> Grouping:
        """Group the tokens.

        Args:
            tokens (Tokens): What can be looked at.
            num_clusters (int): Clusters M, 1 <= M <= N.

        Returns:
            Grouping: B and h are those of the tokens, or 1 where all images or heads are grouped alike.
        """
        raise NotImplementedError

    def scores(self, tokens: Tokens) -> Tensor | None:
        """The number that each token was sorted by, (B, h, N) without gradient; None where there is no such number."""
        return None


def register_grouping(method: type[GroupingMethod]) -> type[GroupingMethod]:
    """Enter a way of grouping into the table under its class name."""
    GROUPINGS[method.__name__] = method
    return method


def check_option(name: str, value: object, allowed: tuple) -> None:
    """Refuse a value of an option that is none of the allowed ones.

    Raises:
        ValueError: The message names the option and what is allowed.
    """
    if value not in allowed:
        raise ValueError(f'{name} must be one of {allowed}, got {value!r}')


def build_grouping(config: dict, block: int = 0) -> GroupingMethod:
    """Make the way of grouping that a config names.

    Args:
        config (dict): ``type``, a name in the table, and the options of that class.
        block (int): Place of the layer's block in its stage, from 0.

    Returns:
        GroupingMethod: For one attention layer.

    Raises:
        ValueError: If there is no such type, option or value; the message names those there are.
    """
    if not isinstance(config, dict):
        raise ValueError(f'grouping must be a dict with a type, one of {sorted(GROUPINGS)}, got {config!r}')
    options = dict(config)
    name = options.pop('type', None)
    if name not in GROUPINGS:
        raise ValueError(f'grouping must have a type, one of {sorted(GROUPINGS)}, got {name!r}')
    known = list(inspect.signature(GROUPINGS[name]).parameters)
    for option in options:
        if option not in known:
            raise ValueError(f'grouping {name} has no option {option!r}; it has {", ".join(known) or "none"}')
    method = GROUPINGS[name](**options)
    method.block = block
    return method
