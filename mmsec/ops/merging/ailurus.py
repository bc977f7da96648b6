"""After AiluRus: density peaks of tokens that are alike and lie close together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmsec.ops.merging.density_peaks import density_peak_merging
from mmsec.ops.merging.matching import positions
from mmsec.ops.merging.merging import Merging
from mmsec.ops.merging.method import MERGINGS, MergingMethod
from mmsec.ops.merging.sizes import at_least, product, rounded

_SPREAD = 0.4
"""Mean squared distance of two tokens. Maps of a ViT-S of DINOv2 change little up to here, and much at 10 times it."""


@torch.no_grad()
def peaks_in_space(x: Tensor, num_clusters: int, alpha: float) -> Merging:
    """Merge tokens around the peaks of their density, by a distance of features and of places on the map.

    The squared distance is ``u ((1 - alpha) |z_i - z_j|^2 / m + alpha |p_i - p_j|^2 / s^2)`` with features z, rows and
    columns p, m, the mean of ``|z_i - z_j|^2`` over all pairs of the image, ``s^2 = H W / K``, the tokens of a cluster,
    and ``u = 0.4``. So the scale of the features changes nothing, which a density of raw distances depends on. The rest
    is :func:`mmsec.ops.merging.density_peaks.density_peak_merging`, which ``alpha=0`` is, of the features as they are.

    All of this is a choice of ours: the formulas of AiluRus could not be read.

    Args:
        x (Tensor): (B, H, W, C) tokens.
        num_clusters (int): Clusters K, in [1, H * W].
        alpha (float): Share of the places in the distance, in [0, 1].

    Returns:
        Merging: Of H * W tokens into K, in descending order of density * separation of their centres.
    """
    batch, height, width, _ = x.shape
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if alpha:
        spread = 2 * x.flatten(1, 2).var(dim=1, correction=0).sum(dim=1)  # (B,) m
        spread = spread.clamp_min(torch.finfo(x.dtype).tiny)[:, None, None, None]
        y, x_ = (torch.arange(side, dtype=x.dtype, device=x.device) for side in (height, width))
        place = torch.stack(torch.meshgrid(y, x_, indexing='ij'), dim=-1)  # (H, W, 2)
        place = place * (product(alpha, num_clusters) / (height * width)) ** 0.5
        x = torch.cat([x * ((1 - alpha) / spread).sqrt(), place.expand(batch, -1, -1, -1)], dim=-1)
        x = x * (product(_SPREAD, x.shape[-1])) ** 0.5  # density_peak_merging divides by the channels
    return density_peak_merging(x, [num_clusters])[0]


@MERGINGS.register_module()
@dataclass(frozen=True)
class AiluRus(MergingMethod):
    """Density peaks of tokens in features and space behind one block: after AiluRus, not with its formulas.

    Published is one merging by a clustering of density that knows of places, behind an early block, with copies at the
    end. The distance, the numbers and log(size) in the attention are choices of ours; see :func:`peaks_in_space`.

    Args:
        after_block (int): Blocks that see all tokens.
        keep (float): Share of tokens to keep, in (0, 1].
        alpha (float): Share of the places in the distance of tokens, in [0, 1].
        proportional_attention (bool): Whether attention adds log(size) of the key's token to the logits.

    Raises:
        ValueError: If an option is none of these, or ``after_block`` is not below the number of blocks.

    Source: after AiluRus (arXiv 2311.01197), of which only the abstract and the introduction were read.
    """

    after_block: int = 2
    keep: float = 0.5
    alpha: float = 0.05
    proportional_attention: bool = True

    place = 'after_block'

    def __post_init__(self) -> None:
        if not isinstance(self.after_block, int) or self.after_block < 1:
            raise ValueError(f'after_block of AiluRus must be an integer of at least 1, got {self.after_block!r}')
        if not isinstance(self.keep, (int, float)) or not 0 < self.keep <= 1:
            raise ValueError(f'keep of AiluRus must be in (0, 1], the share of tokens to keep, got {self.keep!r}')
        if not isinstance(self.alpha, (int, float)) or not 0 <= self.alpha <= 1:
            raise ValueError(f'alpha of AiluRus must be in [0, 1], got {self.alpha!r}')

    def check_blocks(self, depth: int, built: int) -> None:
        """See :class:`MergingMethod`."""
        if self.after_block >= built:
            raise ValueError(
                f'after_block of AiluRus must be below the number of blocks, {built}, got {self.after_block}'
            )

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
        """See :class:`MergingMethod`; by :func:`peaks_in_space`."""
        self.check_blocks(depth, depth)
        if layer != self.after_block - 1:
            return None
        num_clusters = at_least(rounded(product(self.keep, *grid), round), 1)
        if num_clusters == grid[0] * grid[1]:
            return None
        merging = peaks_in_space(features[:, protected:].unflatten(1, grid), num_clusters, self.alpha)
        front = positions(features.shape[0], 0, protected, features.device)
        assignment = torch.cat([front, merging.assignment + protected], dim=1)
        return Merging.from_assignment(assignment, protected + num_clusters)
