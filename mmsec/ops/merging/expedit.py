"""Expedit: the grid of tokens is clustered to a smaller grid, and rebuilt softly at the end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec.ops.kernels.conditions import makes_graph
from mmsec.ops.merging.matching import positions, products
from mmsec.ops.merging.merging import Links, Merging
from mmsec.ops.merging.method import MERGINGS, MergingMethod
from mmsec.ops.merging.sizes import at_least, at_most, product, rounded

_TEMPERATURE = 30.0
"""Of tokens whose mean squared distance is 1. Of 10 to 1000, 20 to 40 change the maps of a ViT-S of DINOv2 least."""


@torch.no_grad()
def expedit(
    tokens: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    num_iters: int = 5,
    window: int = 5,
    temperature: float | None = None,
    k: int = 20,
    protected: int = 0,
) -> Merging:
    """Cluster a grid of tokens to a smaller grid of centres.

    Centres begin as the averages of the cells of the smaller grid. In each iteration a token is shared among the
    centres near its cell, with the weights ``softmax(-temperature * |token - centre|^2)``, and a centre becomes the
    weighted mean of its tokens. On the way back a token is rebuilt from the k centres nearest to it in feature space,
    with the weights ``exp(-temperature * |token - centre|^2)``, made to sum to 1. The weights have no gradient, as the
    choices of other methods have none.

    Args:
        tokens (Tensor): (B, T, C): ``protected`` tokens, then the grid in raster order.
        grid (tuple[int, int]): Rows H and columns W of the grid; H * W = T - protected.
        size (tuple[int, int]): Rows h and columns w of the centres; at most H and W.
        num_iters (int): Iterations, at least 1.
        window (int): Height and width in cells of the part of the centres that a token is shared among; an even one
            counts as the next odd one.
        temperature (float, optional): Factor of the squared distance, above 0; published is 0.02, for the features of
            Segmenter with ViT-L. None for 30 over the mean squared distance of two tokens of the image, a choice of
            ours that fits features of any scale.
        k (int): Centres a token is rebuilt from; at most h * w are.
        protected (int): Tokens at the front that stay as they are.

    Returns:
        Merging: Into ``protected + h * w`` tokens. ``merge(tokens)`` is the centres of the last iteration.

    Raises:
        ValueError: If the tokens are not those of the grid, or the temperature is so low for them that all weights are
            nearly equal: the rebuilt map would be one token everywhere.

    Source: Expediting Large-Scale Vision Transformer for Dense Prediction (arXiv 2210.01035), section 3.
    """
    batch, num_tokens, _ = tokens.shape
    (height, width), num_centers = grid, size[0] * size[1]
    if height * width + protected != num_tokens:
        raise ValueError(f'a grid of {height} x {width} and {protected} more tokens are not {num_tokens} tokens')
    tokens = tokens[:, protected:].to(torch.promote_types(tokens.dtype, torch.float32))
    length = tokens.square().sum(dim=-1).mean(dim=1)  # (B,)
    tokens = tokens - tokens.mean(dim=1, keepdim=True)  # distances are the same, and rounding errors smaller
    spread = 2 * tokens.square().sum(dim=-1).mean(dim=1)  # (B,) mean squared distance of two tokens
    if temperature is None:
        tokens = tokens / spread.sqrt().clamp_min(torch.finfo(tokens.dtype).tiny)[:, None, None]
        temperature = _TEMPERATURE
    elif not makes_graph() and bool(((temperature * spread < 1) & (spread > 1e-6 * length)).all()):
        raise ValueError(
            f'temperature={temperature} of Expedit is too low for these features, it would erase the map: tokens lie '
            f'{spread.max().sqrt():.3g} apart, which needs at least {1 / spread.max():.2g}; '
            'leave it out, and it follows the features'
        )
    image = tokens.unflatten(1, grid)  # (B, H, W, C)
    centers = F.adaptive_avg_pool2d(image.permute(0, 3, 1, 2), size).flatten(2).mT  # (B, h*w, C)
    near, valid = _cells_near(grid, size, window, tokens.device)
    for _ in range(num_iters):
        closeness = _closeness_to_cells(image, centers.unflatten(1, size), near, size)  # (B, H*W, window^2)
        weights = (temperature * closeness).masked_fill(~valid, -torch.inf).softmax(dim=-1)
        # The floor keeps a centre that no token is close to a mean of the tokens near it, where weights underflow.
        shares = Links(near.expand(batch, -1, -1), num_centers, weights.clamp_min(1e-20))
        centers = Merging(shares).merge(tokens)
    k = at_most(k, num_centers)
    square = centers.square().sum(dim=-1)[:, None]  # (B, 1, h*w)
    best = [(2 * block - square).topk(k, dim=-1) for block in products(tokens, centers)]
    weights = (temperature * torch.cat([values for values, _ in best], dim=1)).softmax(dim=-1)  # (B, H*W, k)
    rebuild = Links(torch.cat([index for _, index in best], dim=1), num_centers, weights)
    return Merging(_behind(shares, protected), _behind(rebuild, protected))


def _cells_near(
    grid: tuple[int, int], size: tuple[int, int], window: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The centres near each token: (H*W, window^2) int64, and which of them exist; others stand for one at the edge."""
    step = torch.arange(-(window // 2), window // 2 + 1, device=device)
    near, valid = [], []
    for tokens, cells in zip(grid, size, strict=True):
        cell = (torch.arange(tokens, device=device) * cells // tokens)[:, None] + step  # (H, window)
        near.append(cell.clamp(0, cells - 1))
        valid.append((cell >= 0) & (cell < cells))
    index = near[0][:, None, :, None] * size[1] + near[1][None, :, None, :]  # (H, W, window, window)
    exists = valid[0][:, None, :, None] & valid[1][None, :, None, :]
    return index.flatten(2).flatten(0, 1), exists.flatten(2).flatten(0, 1)


def _closeness_to_cells(image: Tensor, centers: Tensor, near: Tensor, size: tuple[int, int]) -> Tensor:
    """2 * token . centre - |centre|^2, which is -|token - centre|^2 but for a number of the token's own.

    Tokens (B, H, W, C), centres (B, h, w, C), those near each token (H*W, window^2) -> (B, H*W, window^2).
    """
    batch, height, width, _ = image.shape
    side = math.isqrt(near.shape[-1])
    near = near.view(height, width, side, side)
    rows, columns = near[:, 0, :, 0] // size[1], near[0, :, 0] % size[1]  # (H, window), (W, window)
    square = centers.square().sum(dim=-1)  # (B, h, w)
    # All tokens of a row are near the same few rows of centres: one product for each row.
    bands = centers[:, rows].flatten(2, 3)  # (B, H, window*w, C)
    with torch.autocast(image.device.type, enabled=False):
        dots = image @ bands.mT  # (B, H, W, window*w)
    closeness = 2 * dots - square[:, rows].flatten(2)[:, :, None]
    closeness = closeness.unflatten(-1, (side, size[1]))
    columns = columns[None, None, :, None].expand(batch, height, -1, side, -1)
    return closeness.gather(-1, columns).flatten(3).flatten(1, 2)


def _behind(links: Links, protected: int) -> Links:
    """The same links behind tokens at the front that are linked to themselves alone."""
    batch, _, count = links.index.shape
    front = positions(batch, 0, protected, links.index.device)[..., None].expand(-1, -1, count)  # (B, protected, k)
    assert links.weights is not None  # tokens are shared among centres
    weights = torch.zeros_like(front, dtype=links.weights.dtype)
    weights[..., 0] = 1
    index = torch.cat([front, links.index + protected], dim=1)
    return Links(index, links.num_merged + protected, torch.cat([weights, links.weights], dim=1))


@MERGINGS.register_module()
@dataclass(frozen=True)
class Expedit(MergingMethod):
    """Clustering to a smaller grid behind one block; the blocks after it see the small grid.

    Args:
        after_block (int): Blocks that see all tokens.
        size (tuple[int, int] | float): Rows and columns of the small grid, each at most those of the map, or its
            height and width as a share of the map's, in (0, 1].
        num_iters (int): Iterations of clustering.
        window (int): Cells high and wide that a token is shared among.
        temperature (float, optional): Factor of the squared distance. Published is 0.02, for the features of Segmenter
            with ViT-L. None follows the scale of the features: see :func:`expedit`.
        k (int): Centres that each token is rebuilt from.

    Raises:
        ValueError: If an option is out of its range, ``after_block`` is not below the number of blocks, or a
            temperature does not fit the features.

    Source: Expediting Large-Scale Vision Transformer for Dense Prediction (arXiv 2210.01035).
    """

    after_block: int
    size: tuple[int, int] | float
    num_iters: int = 5
    window: int = 5
    temperature: float | None = None
    k: int = 20

    place = 'after_block'

    def __post_init__(self) -> None:
        for name in ('after_block', 'num_iters', 'window', 'k'):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f'{name} of Expedit must be an integer of at least 1, got {getattr(self, name)}')
        number = 1 if self.temperature is None else self.temperature
        if not isinstance(number, (int, float)) or not 0 < number < math.inf:
            raise ValueError(f'temperature of Expedit must be above 0, or None, got {self.temperature!r}')
        if isinstance(self.size, (int, float)):
            allowed = 0 < self.size <= 1
        else:
            sides = self.size if isinstance(self.size, Sequence) else ()
            allowed = len(sides) == 2 and all(isinstance(side, int) and side >= 1 for side in sides)
        if not allowed:
            raise ValueError(
                f'size of Expedit must be rows and columns, each at least 1, or a share of the map in (0, 1], '
                f'got {self.size}'
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
        """See :class:`MergingMethod`; by :func:`expedit`."""
        self.check_blocks(depth, depth)
        if layer != self.after_block - 1:
            return None
        size = self.merged_grid(grid)
        if size == tuple(grid):
            return None
        return expedit(features, grid, size, self.num_iters, self.window, self.temperature, self.k, protected)

    def check_blocks(self, depth: int, built: int) -> None:
        """See :class:`MergingMethod`; what merges behind the last block saves nothing."""
        if self.after_block >= built:
            raise ValueError(
                f'after_block of Expedit must be below the number of blocks, {built}, got {self.after_block}'
            )

    def merged_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the small grid; see :class:`MergingMethod`."""
        if isinstance(self.size, (int, float)):
            height, width = (at_least(rounded(product(self.size, side), round), 1) for side in grid)
        else:
            height, width = (at_most(most, side) for most, side in zip(self.size, grid, strict=True))
        return height, width
