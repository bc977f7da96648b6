"""The interface of a grouping method, and the registry that finds one by its name."""

from torch import Tensor, nn

from mmsec.ops.grouping.grouping import Grouping
from mmsec.ops.registry import Registry
from mmsec.ops.rotary import apply_rotary

GROUPINGS = Registry('grouping')


class Tokens:
    """What a grouping may look at: the N tokens of one attention layer, of h heads of width d.

    Args:
        qkv (Tensor): (B, N, 3, h, d) queries, keys and values as the layer's projection makes them.
        token (Tensor): (B, N, h, d), the normalised input of the layer, its channels split by heads.
        size (tuple[int, int]): Rows H' and columns W' of the map, H' * W' = N.
        rotary (Tensor, optional): (N, d/2, 2) from :func:`mmsec.ops.rotary_table`: queries and keys are rotated by it.
    """

    def __init__(self, qkv: Tensor, token: Tensor, size: tuple[int, int], rotary: Tensor | None = None) -> None:
        self.qkv = qkv
        self.token = token
        self.size = size
        self.rotary = rotary
        self._rotated: dict[int, Tensor] = {}

    @property
    def query(self) -> Tensor:
        """(B, N, h, d), as attention uses them."""
        return self._at(0)

    @property
    def key(self) -> Tensor:
        """(B, N, h, d), as attention uses them."""
        return self._at(1)

    @property
    def value(self) -> Tensor:
        """(B, N, h, d)."""
        return self.qkv[:, :, 2]

    def _at(self, index: int) -> Tensor:
        """Queries or keys, rotated when they are first asked for."""
        if self.rotary is None:
            return self.qkv[:, :, index]
        if index not in self._rotated:
            self._rotated[index] = apply_rotary(self.qkv[:, :, index], self.rotary)
        return self._rotated[index]


class GroupingMethod(nn.Module):
    """A way of grouping tokens, one object for each attention layer; it has no weights.

    A new one is a file in this package with a subclass under ``@GROUPINGS.register_module()``.

    Attributes:
        block (int): Index of the layer's block in its stage, from 0.
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


def check_option(name: str, value: object, allowed: tuple) -> None:
    """Refuse a value of an option that is none of the allowed ones.

    Raises:
        ValueError: The message names the option and what is allowed.
    """
    if value not in allowed:
        raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
