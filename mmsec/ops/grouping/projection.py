"""Random projection: tokens whose keys lie similarly along a random direction attend to each other."""

import torch
from torch import Tensor

from mmsec.ops.grouping.grouping import Grouping
from mmsec.ops.grouping.hashing import hashed_rows
from mmsec.ops.grouping.method import GROUPINGS, GroupingMethod, Tokens
from mmsec.ops.grouping.similarity import cosine, in_float


def random_directions(block: int, heads: int, head_dim: int, device: torch.device) -> Tensor:
    """(h, d) float64 of any length, the same whenever it is asked for: a direction for each head of a block.

    It is normally distributed, so that no direction is likelier than another.
    """
    uniform = (hashed_rows(block, heads, head_dim, device) + 0.5) / 2**32  # in (0, 1)
    return torch.erfinv(2 * uniform.double() - 1)


@GROUPINGS.register_module()
class ProjectionGrouping(GroupingMethod):
    """Group tokens by the cosine of their key with a random direction of the head, where SEC takes the mean key.

    The direction is fixed: it depends only on the index of the block and the head, in training as in evaluation.

    Source: the sort by random projections of SMYRF (arXiv 2010.05315), here one projection, of the keys alone.
    """

    score_name = 'cosine with a random direction'

    def forward(self, tokens: Tokens, num_clusters: int) -> Grouping:
        """Group the tokens; see :class:`GroupingMethod`."""
        return Grouping(self.scores(tokens).contiguous().argsort(dim=-1, stable=True), num_clusters)

    def scores(self, tokens: Tokens) -> Tensor:
        """(B, h, N) scores of the keys."""
        key = in_float(tokens.key)
        directions = random_directions(self.block, key.shape[2], key.shape[3], key.device)
        return cosine(key, directions.to(key.dtype)).transpose(1, 2)
