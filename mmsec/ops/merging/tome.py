"""ToMe: of two alternating sets of tokens, the most similar pairs merge."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmsec.ops.merging.matching import best_pairs, cut, merge_pairs, positions, unit
from mmsec.ops.merging.merging import Merging
from mmsec.ops.merging.method import MERGINGS, MergingMethod
from mmsec.ops.merging.sizes import at_most


@torch.no_grad()
def tome(metric: Tensor, r: int, protected: int = 0) -> Merging:
    """Merge the r most similar pairs of a token at an even position and one at an odd position.

    Each token at an even position chooses the token at an odd position that is most similar by cosine.

    Args:
        metric (Tensor): (B, T, d) what tokens are compared by, with the protected ones.
        r (int): Tokens to remove; at most half of the unprotected tokens are.
        protected (int): Tokens at the front that never merge.

    Returns:
        Merging: Into T - r tokens: the protected ones, those at even positions that did not merge, those at odd ones,
        each in their old order.

    Source: Token Merging (arXiv 2210.09461), section 3.
    """
    batch, num_tokens, _ = metric.shape
    r = at_most(r, (num_tokens - protected) // 2)
    rest = positions(batch, protected, num_tokens, metric.device)
    sources, targets = rest[:, protected % 2 :: 2], rest[:, 1 - protected % 2 :: 2]
    if r <= 0:
        return merge_pairs(num_tokens, positions(batch, 0, num_tokens, metric.device), rest[:, :0], rest[:, :0])
    sources, partner = best_pairs(unit(metric), sources, targets)
    front = positions(batch, 0, protected, metric.device)
    kept = torch.cat([front, cut(sources, r, sources.shape[1] - r).sort(dim=1).values, targets], dim=1)
    return merge_pairs(num_tokens, kept, cut(sources, 0, r), cut(partner, 0, r) + kept.shape[1] - targets.shape[1])


@MERGINGS.register_module()
@dataclass(frozen=True)
class ToMe(MergingMethod):
    """Token Merging in every block, between attention and MLP, by the keys.

    Args:
        r (int | Sequence[int]): Tokens to remove in each block, or a list with the number for each block.
        proportional_attention (bool): Whether attention adds log(size) of the key's token to the logits.

    Raises:
        ValueError: If a number is negative, or a list does not have one number for each block.

    Source: Token Merging (arXiv 2210.09461).
    """

    r: int | Sequence[int] = 8
    proportional_attention: bool = True

    place = 'after_attention'

    def __post_init__(self) -> None:
        numbers = self.r if isinstance(self.r, Sequence) else [self.r]
        if any(not isinstance(r, int) or r < 0 for r in numbers):
            raise ValueError(f'r of ToMe must be an integer of at least 0, or a list of them, got {self.r!r}')

    def check_blocks(self, depth: int, built: int) -> None:
        """See :class:`MergingMethod`; a list has a number for each block, built or not."""
        if not isinstance(self.r, int) and len(self.r) != depth:
            raise ValueError(f'r of ToMe must have one number for each of {depth} blocks, got {len(self.r)}: {self.r}')

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
        """See :class:`MergingMethod`; by :func:`tome`."""
        self.check_blocks(depth, depth)
        r = self.r if isinstance(self.r, int) else self.r[layer]
        if at_most(r, (features.shape[1] - protected) // 2) == 0:
            return None
        return tome(features, r, protected)
