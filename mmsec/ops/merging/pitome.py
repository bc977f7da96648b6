"""PiToMe: tokens that many others resemble merge first; tokens unlike all others are protected."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec.ops.merging.matching import best_pairs, cut, merge_pairs, positions, products, unit
from mmsec.ops.merging.merging import Merging
from mmsec.ops.merging.method import MERGINGS, MergingMethod
from mmsec.ops.merging.sizes import at_most, product, rounded


def energy(metric: Tensor, margin: float) -> Tensor:
    """How many other tokens each token resembles: the mean of ELU(cosine - margin) over all tokens, itself included.

    Args:
        metric (Tensor): (B, T, d) vectors of length 1.
        margin (float): Cosine above which a token counts as similar.

    Returns:
        Tensor: (B, T); high for a redundant token.

    Source: PiToMe (arXiv 2405.16148), equation 4.
    """
    return torch.cat([F.elu_(block.sub_(margin)).mean(dim=-1) for block in products(metric, metric)], dim=1)


@torch.no_grad()
def pitome(metric: Tensor, ratio: float, margin: float, mode: Literal['pitome', 'bsm'], protected: int = 0) -> Merging:
    """Merge tokens in the order of their energy.

    Args:
        metric (Tensor): (B, T, d) what tokens are compared by, with the protected ones.
        ratio (float): Share of the unprotected tokens to keep; r = floor(n - n * ratio) of n go, at most half.
        margin (float): Margin of the :func:`energy`.
        mode (str): 'pitome': the 2r tokens of highest energy are dealt out by turns to two sets, and each of the first
            set merges into the most similar of the second. 'bsm': all tokens are dealt out so, and the r most similar
            pairs merge.
        protected (int): Tokens at the front that never merge and do not count in the energy.

    Returns:
        Merging: Into T - r tokens: the protected ones, those that were not merged ('pitome': by descending energy;
        'bsm': of the first set, by descending similarity), then the second set by descending energy.

    Source: PiToMe (arXiv 2405.16148), section 3.2.
    """
    batch, num_tokens, _ = metric.shape
    count = num_tokens - protected
    r = rounded(count - product(ratio, count))
    r = r if ratio >= 0.5 else at_most(r, count // 2)
    front = positions(batch, 0, protected, metric.device)
    if r == 0:
        return merge_pairs(num_tokens, positions(batch, 0, num_tokens, metric.device), front[:, :0], front[:, :0])
    metric = unit(metric)
    ranked = energy(metric[:, protected:], margin).argsort(dim=1, descending=True, stable=True) + protected  # (B, n)
    if mode == 'pitome':
        targets, rest = cut(ranked, 1, r, step=2), cut(ranked, 2 * r, count - 2 * r)
        merged, into = best_pairs(metric, cut(ranked, 0, r, step=2), targets)
    else:
        targets = ranked[:, 1::2]
        sources, partner = best_pairs(metric, ranked[:, ::2], targets)
        merged, into, rest = cut(sources, 0, r), cut(partner, 0, r), cut(sources, r, sources.shape[1] - r)
    kept = torch.cat([front, rest, targets], dim=1)
    return merge_pairs(num_tokens, kept, merged, into + kept.shape[1] - targets.shape[1])


@MERGINGS.register_module()
@dataclass(frozen=True)
class PiToMe(MergingMethod):
    """PiToMe in every block, between attention and MLP, by the keys.

    The margin of the energy falls linearly over the blocks, from ``margin`` in the first towards 0.

    Args:
        ratio (float): Share of tokens that each block keeps, in [0.5, 1].
        order (str): 'deit': mode 'bsm' in the first half of the blocks and 'pitome' in the second; 'mae': the reverse.
        margin (float): Margin of the energy in the first block.

    Raises:
        ValueError: If an option is none of these.

    Source: PiToMe (arXiv 2405.16148).
    """

    ratio: float = 0.925
    order: Literal['deit', 'mae'] = 'deit'
    margin: float = 0.75

    place = 'after_attention'

    def __post_init__(self) -> None:
        if not isinstance(self.ratio, (int, float)) or not 0.5 <= self.ratio <= 1:
            raise ValueError(
                f'ratio of PiToMe must be in [0.5, 1], the share of tokens a block keeps, got {self.ratio!r}'
            )
        if self.order not in ('deit', 'mae'):
            raise ValueError(f"order of PiToMe must be 'deit' or 'mae', got {self.order!r}")
        if not isinstance(self.margin, (int, float)):
            raise ValueError(f'margin of PiToMe must be a number, got {self.margin!r}')

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
        """See :class:`MergingMethod`; by :func:`pitome`."""
        first_half = layer < depth // 2
        mode: Literal['pitome', 'bsm'] = 'bsm' if first_half == (self.order == 'deit') else 'pitome'
        merging = pitome(features, self.ratio, self.margin - self.margin * layer / depth, mode, protected)
        return merging if merging.num_merged < merging.num_tokens else None
