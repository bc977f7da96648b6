"""MPM: two tokens merge that are each the other's nearest."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmsec.ops.merging.matching import merge_as_many_as, positions, products, unit
from mmsec.ops.merging.merging import Merging
from mmsec.ops.merging.method import MERGINGS, MergingMethod, check_layers


@torch.no_grad()
def mutual_pairs(x: Tensor, sizes: Tensor | None = None, protected: int = 0) -> Merging:
    """Merge each pair of tokens of which either is the most similar of all others to the other, by cosine.

    Of equally similar tokens the first is the most similar one, a choice of ours.

    Args:
        x (Tensor): (B, T, C) what tokens are compared by, with the protected ones.
        sizes (Tensor, optional): (B, T); tokens of size 0 only fill up an image.
        protected (int): Tokens at the front that never merge.

    Returns:
        Merging: The protected tokens, then the others in their old order, a pair in the place of its first token;
        images that keep fewer than another of the batch are filled up with empty tokens.

    Source: Mutual Pair Merging (arXiv 2604.05718); from summaries of the paper, for no code is public.
    """
    batch, num_tokens, _ = x.shape
    all_ = positions(batch, 0, num_tokens, x.device)
    metric, own = unit(x[:, protected:]), torch.arange(num_tokens - protected, device=x.device)
    nearest, row = [], 0
    for block in products(metric, metric):
        block.masked_fill_(own[row : row + block.shape[1], None] == own, -torch.inf)  # nobody pairs with itself
        if sizes is not None:
            block.masked_fill_(sizes[:, None, protected:] == 0, -torch.inf)
        nearest.append(block.argmax(dim=-1))
        row += block.shape[1]
    partner = torch.cat(nearest, dim=1)  # (B, n)
    mutual = partner.gather(1, partner) == own
    into = torch.where(mutual, torch.minimum(partner, own), own) + protected
    return merge_as_many_as(torch.cat([all_[:, :protected], into], dim=1), all_, sizes)


@MERGINGS.register_module()
@dataclass(frozen=True)
class MPM(MergingMethod):
    """Mutual Pair Merging in front of some blocks, by the tokens that come into them; it has no threshold and no rate.

    A choice of ours where the summaries of the paper say nothing: a token that merges again counts as often as the
    patches it stands for, so that it is their mean, and attention takes no account of sizes.

    Args:
        layers (Sequence[int]): Blocks in front of which it merges, from 0, in ascending order. Published: 2 and 5.

    Raises:
        ValueError: If ``layers`` are not that, or the network has no such blocks.

    Source: Mutual Pair Merging (arXiv 2604.05718).
    """

    layers: Sequence[int] = (2, 5)

    place = 'before_block'
    fills_up = True

    def __post_init__(self) -> None:
        check_layers(self)

    def check_blocks(self, depth: int, built: int) -> None:
        """See :class:`MergingMethod`."""
        check_layers(self, built)

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
        """See :class:`MergingMethod`; by :func:`mutual_pairs`."""
        self.check_blocks(depth, depth)
        return mutual_pairs(features, sizes, protected) if layer in self.layers else None
