"""ALGM: neighbours that are alike merge in small windows first, and what is alike anywhere on the map later."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec.ops.merging.matching import merge_as_many_as, positions, products, take, unit
from mmsec.ops.merging.merging import Merging
from mmsec.ops.merging.method import MERGINGS, MergingMethod, check_layers


@torch.no_grad()
def algm_local(x: Tensor, grid: tuple[int, int], threshold: float, window: int = 2, protected: int = 0) -> Merging:
    """Merge the windows of a grid whose tokens are alike, each into one token.

    The score of a window is the mean cosine of its pairs of tokens. All windows merge that reach the threshold.
    Windows lie from the top left on; what is less than a window, at the right and the bottom, does not merge, which
    is a choice of ours: the published code takes square maps of whole windows alone.

    Args:
        x (Tensor): (B, T, C) what tokens are compared by: ``protected`` tokens, then the grid in raster order.
        grid (tuple[int, int]): Rows H and columns W of the grid; H * W = T - protected.
        threshold (float): Least score of a window that merges.
        window (int): Height and width of a window, at least 2.
        protected (int): Tokens at the front that never merge.

    Returns:
        Merging: The protected tokens, merged windows by descending score, then all others in raster order; images
        that keep fewer than another of the batch are filled up with empty tokens.

    Raises:
        ValueError: If the tokens are not those of the grid.

    Source: ALGM (arXiv 2406.09936), and its public code.
    """
    (height, width), (batch, num_tokens, _) = grid, x.shape
    if height * width + protected != num_tokens:
        raise ValueError(f'a grid of {height} x {width} and {protected} more tokens are not {num_tokens} tokens')
    # Vectors of length 1: the squared length of their sum is the sum of all cosines, those with themselves too.
    image = F.pad(unit(x[:, protected:]).unflatten(1, grid).permute(0, 3, 1, 2), (0, window - 1, 0, window - 1))
    length = F.avg_pool2d(image, window).square().sum(dim=1)  # (B, rows, columns), of the mean
    same = F.avg_pool2d(image.square().sum(dim=1, keepdim=True), window)[:, 0]
    rows, columns = same.shape[1:]
    y, x_ = (torch.arange(side, device=x.device) for side in (rows, columns))
    whole = ((y + 1) * window <= height)[:, None] & ((x_ + 1) * window <= width)
    score = (length * window**2 - same) / (window**2 - 1)
    score = score.masked_fill(~whole, -torch.inf).flatten(1)  # (B, windows)
    place = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    raster = torch.arange(height * width, device=x.device)
    y, x_ = raster // width // window, raster % width // window  # the window of each token
    index = y * columns + x_
    merges = score[:, index] >= threshold  # (B, H*W)
    into = torch.where(merges, (y * width + x_) * window, raster) + protected
    rank = torch.where(merges, place[:, index], raster + rows * columns) + protected
    front = positions(batch, 0, protected, x.device)
    return merge_as_many_as(torch.cat([front, into], dim=1), torch.cat([front, rank], dim=1))


@torch.no_grad()
def algm_global(x: Tensor, block: int, sizes: Tensor | None = None, protected: int = 0) -> Merging:
    """Merge the pairs of alternating tokens that are more alike than most, wherever they lie.

    Of the unprotected tokens the first and every second after it are targets, the others choose the target that is
    most similar by cosine. With m and s, the mean and the standard deviation of these similarities in an image, those
    pairs merge that reach ``m + s / block``.

    Args:
        x (Tensor): (B, T, C) what tokens are compared by, with the protected ones.
        block (int): Number of the block, from 1.
        sizes (Tensor, optional): (B, T); tokens of size 0, at the end of an image, only fill it up.
        protected (int): Tokens at the front that never merge.

    Returns:
        Merging: The protected tokens, those that chose and did not merge, then the targets, each in their old order;
        filled up as by :func:`algm_local`.

    Source: ALGM (arXiv 2406.09936), and its public code, where the threshold is a mean over the images of the batch,
    and all images merge as many pairs as the one that merges fewest; here an image does not depend on others.
    """
    batch, num_tokens, _ = x.shape
    rest = positions(batch, protected, num_tokens, x.device)
    targets, sources = rest[:, ::2], rest[:, 1::2]
    real = torch.ones_like(rest, dtype=torch.bool) if sizes is None else sizes[:, protected:] > 0  # (B, n)
    metric = unit(x)
    found = [
        block_.masked_fill_(~real[:, None, ::2], -torch.inf).max(dim=-1)
        for block_ in products(take(metric, sources), take(metric, targets))
    ]
    best, partner = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))  # (B, sources)
    chooses = real[:, 1::2]
    count = chooses.sum(dim=1, keepdim=True)
    mean = best.where(chooses, 0).sum(dim=1, keepdim=True) / count
    variance = (best - mean).square().where(chooses, 0).sum(dim=1, keepdim=True) / (count - 1)
    merges = chooses & (best >= mean + variance.sqrt() / block)
    into = torch.where(merges, targets.gather(1, partner), sources)
    all_ = positions(batch, 0, num_tokens, x.device)
    rank = all_.scatter(1, targets, targets + num_tokens)
    return merge_as_many_as(all_.scatter(1, sources, into), rank, sizes)


@MERGINGS.register_module()
@dataclass(frozen=True)
class ALGM(MergingMethod):
    """Merging of alike windows in one block and of alike tokens in later ones, between attention and MLP.

    How many tokens go depends on the image. Tokens are compared as they are behind the attention's residual.

    Args:
        layers (Sequence[int]): Blocks that merge, from 0, in ascending order: windows in the first, pairs from all of
            the map in the others. Published: 0 and 4, for ViT-L 0 and 6.
        threshold (float): Least mean cosine of a window that merges, in (-1, 1]. Published for models trained with it
            on ADE20K: 0.90 for tiny, 0.88 for small, 0.94 for base, 0.95 for large; on Cityscapes 0.955 for small.
        window (int): Height and width of a window in tokens.

    Raises:
        ValueError: If an option is none of these, or the network has no such blocks.

    Source: ALGM (arXiv 2406.09936). Images of a batch do not depend on each other here, unlike in the public code.
    """

    layers: Sequence[int] = (0, 4)
    threshold: float = 0.88
    window: int = 2

    place = 'after_attention'
    compares = 'tokens'
    fills_up = True

    def __post_init__(self) -> None:
        check_layers(self)
        if not isinstance(self.threshold, (int, float)) or not -1 < self.threshold <= 1:
            raise ValueError(f'threshold of ALGM must be a cosine in (-1, 1], got {self.threshold!r}')
        if not isinstance(self.window, int) or self.window < 2:
            raise ValueError(f'window of ALGM must be an integer of at least 2, got {self.window!r}')

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
        """See :class:`MergingMethod`; by :func:`algm_local`, then by :func:`algm_global`."""
        self.check_blocks(depth, depth)
        if layer not in self.layers:
            return None
        if layer == self.layers[0]:
            return algm_local(features, grid, self.threshold, self.window, protected)
        return algm_global(features, layer + 1, sizes, protected)
