"""The nearest of many tokens, found without all distances in memory at once."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 64
"""Columns of which the largest is found first, where the largest of many columns are wanted."""


class Candidates:
    """Tokens to look for the nearest among.

    Args:
        x (Tensor): (B, M, C).
    """

    def __init__(self, x: Tensor) -> None:
        self.count = x.shape[1]
        missing = -self.count % _CHUNK  # filled up with tokens infinitely far away
        self.products = F.pad(x, (0, 0, 0, missing)).transpose(1, 2)  # (B, C, M')
        self.norms = F.pad(x.square().sum(dim=-1) / -2, (0, missing), value=-math.inf)[:, None]  # (B, 1, M')

    def blocks(self, num_rows: int) -> Iterator[tuple[slice, slice]]:
        """Slices of images and of the rows of tokens whose nearest candidates can be looked for in one go.

        Images share a block only where all rows of an image fit, so that blocks do not depend on the batch. On a CPU a
        block stays in the cache; other devices are slow at many small steps. A product of fewer than 64 rows would
        spend its time on reading the candidates.
        """
        batch, _, num_columns = self.products.shape
        entries = 2**20 if self.products.device.type == 'cpu' else 2**24  # distances at a time: 4 or 64 MiB in float32
        images = max(1, entries // max(1, num_rows * num_columns))
        step = max(64, entries // num_columns)
        for image in range(0, batch, images):
            for row in range(0, num_rows, step):
                yield slice(image, image + images), slice(row, row + step)

    def closeness(self, x: Tensor, images: slice) -> Tensor:
        """(b, r, C) tokens of some images -> (b, r, M'), ``(|x|^2 - distance^2) / 2`` to each candidate."""
        return torch.baddbmm(self.norms[images], x, self.products[images])

    def largest(self, closeness: Tensor, count: int) -> Tensor:
        """(b, r, M') -> (b, r, count) int64, where the largest are; of equals the first if ``count`` is 1."""
        chunks = closeness.unflatten(-1, (-1, _CHUNK))  # (b, r, M'/64, 64)
        if chunks.shape[2] <= 2 * count:
            index = _first_largest(closeness, count)
        else:  # they are in the chunks with the largest maxima, and one pass over memory finds all maxima
            chunk = _first_largest(chunks.amax(dim=-1), count)  # (b, r, count)
            row = torch.arange(chunk[..., 0].numel(), device=chunk.device).view(*chunk.shape[:2], 1)
            kept = chunks.flatten(0, 2).index_select(0, (row * chunks.shape[2] + chunk).flatten())
            position = _first_largest(kept.view(*chunk.shape[:2], -1), count)  # (b, r, count), in what was kept
            index = chunk.gather(-1, position // _CHUNK) * _CHUNK + position % _CHUNK
        return index.clamp(max=self.count - 1)  # only NaN can be larger than the tokens that were filled up


def _first_largest(x: Tensor, count: int) -> Tensor:
    """``topk(count).indices`` of the last dimension; of equals the first if ``count`` is 1, what topk does not say."""
    return x.argmax(dim=-1, keepdim=True) if count == 1 else x.topk(count, dim=-1).indices


def squared_distances(x: Tensor, others: Tensor, index: Tensor) -> Tensor:
    """Squared distances of tokens (B, r, C) to k of the others (B, N, C) each, given by (B, r, k): (B, r, k).

    Computed from differences, so that equal tokens are at distance 0.
    """
    others = take_tokens(others, index.flatten(1)).view(*index.shape, -1)  # (B, r, k, C)
    return (others - x[:, :, None]).square_().sum(dim=-1)


def take_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, N, C) at the positions (B, r) of their own image: (B, r, C)."""
    image = torch.arange(x.shape[0], device=x.device)[:, None]
    return x.flatten(0, 1).index_select(0, (index + image * x.shape[1]).flatten()).view(*index.shape, -1)
