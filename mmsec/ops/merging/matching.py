"""What matching methods share: similarities in blocks, the best partner of each source, and a merging from pairs."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec import compat
from mmsec.ops.merging.merging import Merging
from mmsec.ops.merging.sizes import known, renamed

BLOCK = 2**22  # similarities held at a time, of all images together: 16 MiB in float32


def unit(metric: Tensor) -> Tensor:
    """(B, T, d) -> vectors of length 1 in at least float32, without gradient; a zero vector stays zero."""
    metric = metric.detach()
    return F.normalize(metric.to(torch.promote_types(metric.dtype, torch.float32)), dim=-1)


def products(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Dot products of (B, n, d) and (B, m, d), whatever autocast says: (B, rows, m) of a block of rows at a time."""
    if compat.is_exporting() or torch.jit.is_tracing():  # blocks would make a graph for one size
        blocks: tuple[Tensor, ...] = (a,)
    else:
        blocks = a.split(max(1, BLOCK // max(1, b.shape[0] * b.shape[1])), dim=1)
    for part in blocks:
        with torch.autocast(a.device.type, enabled=False):
            block = part @ b.mT
        yield block


def best_pairs(metric: Tensor, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar target of each source, most similar pairs first; of equal ones the first.

    Unit vectors (B, T, d), sources (B, n), targets (B, m) -> the sources (B, n) by descending similarity, and the
    position in ``targets`` of the partner of each.
    """
    best = [block.max(dim=-1) for block in products(take(metric, sources), take(metric, targets))]
    similarity = torch.cat([values for values, _ in best], dim=1)  # (B, n)
    partner = torch.cat([index for _, index in best], dim=1)
    order = similarity.argsort(dim=1, descending=True, stable=True)
    return sources.gather(1, order), partner.gather(1, order)


def merge_pairs(num_tokens: int, kept: Tensor, merged: Tensor, into: Tensor) -> Merging:
    """Merge tokens (B, r) into the positions ``into`` (B, r) of those that are kept, (B, T'), in the order of these."""
    positions = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    both = torch.cat([kept, merged], dim=1)
    assignment = kept.new_empty(kept.shape[0], num_tokens)
    assignment = assignment.scatter_(1, both, torch.cat([positions, into], dim=1))
    num_merged = renamed(kept.shape[1])
    if compat.is_exporting():
        torch._check(num_merged < num_tokens)
    return Merging.from_assignment(assignment, num_merged)


def cut(x: Tensor, begin: int, count: int, step: int = 1) -> Tensor:
    """``count`` columns of (B, n), from ``begin`` on in steps: by an index, whose length is known in every graph."""
    return x[:, begin + step * torch.arange(count, device=x.device)]


def merge_as_many_as(into: Tensor, rank: Tensor, sizes: Tensor | None = None) -> Merging:
    """Merge as many tokens as each image has; images that keep fewer than another are filled up with empty tokens.

    Args:
        into (Tensor): (B, T) int64; the token that each becomes part of, itself if it stays.
        rank (Tensor): (B, T) int64 below 2 T; tokens that stay come out in ascending order of it.
        sizes (Tensor, optional): (B, T); tokens of size 0 go, whatever ``into`` says. None if there are none.

    Returns:
        Merging: Into as many tokens as stay in the image that keeps most. What has size 0 is in one of them.
    """
    stays = into == positions(into.shape[0], 0, into.shape[1], into.device)
    if sizes is not None:
        stays = stays & (sizes > 0)
    order = torch.where(stays, rank, 2 * into.shape[1]).argsort(dim=1, stable=True)
    num_merged = known(stays.sum(dim=1).max())
    return Merging.from_assignment(order.argsort(dim=1).gather(1, into).clamp(max=num_merged - 1), num_merged)


def positions(batch: int, begin: int, end: int, device: torch.device) -> Tensor:
    """(B, end - begin) int64; the positions from ``begin`` on, for each image."""
    return torch.arange(begin, end, device=device).expand(batch, -1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows (B, n) of (B, T, d): (B, n, d)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
