"""Chance: tokens attend to those they are drawn together with."""

import torch

from mmsec.ops.grouping.grouping import Grouping
from mmsec.ops.grouping.hashing import hashed_rows
from mmsec.ops.grouping.method import GROUPINGS, GroupingMethod, Tokens


@GROUPINGS.register_module()
class RandomGrouping(GroupingMethod):
    """Group tokens at random.

    In training each image, head and forward pass draws an order of its own from PyTorch's generator. In evaluation each
    head has a fixed order, which depends only on the index of its block and the number of tokens.
    """

    def forward(self, tokens: Tokens, num_clusters: int) -> Grouping:
        """Group the tokens; see :class:`GroupingMethod`."""
        batch, num_tokens, heads, _ = tokens.token.shape
        device = tokens.token.device
        if self.training:
            return Grouping(torch.rand(batch, heads, num_tokens, device=device).argsort(-1), num_clusters)
        drawn = hashed_rows(self.block, heads, num_tokens, device)[None]  # (1, h, N)
        return Grouping(drawn.argsort(-1).expand(batch, -1, -1), num_clusters)
