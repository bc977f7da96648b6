"""Fewer tokens of many: what every way of merging returns, and what undoes it."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec import compat


@dataclass(frozen=True, eq=False)
class Links:
    """Which merged tokens each token is linked to, and how strongly: a sparse matrix of N x T'.

    Attributes:
        index (Tensor): (B, N, k) int64 in [0, T'); the k merged tokens of each token.
        num_merged (int): Merged tokens T'.
        weights (Tensor, optional): (B, N, k), without gradient, at least float32; None if each weight is 1.
    """

    index: Tensor
    num_merged: int
    weights: Tensor | None = None

    def sum(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, T', C), at least float32: weighted sum over the tokens of each merged token, 0 without any.

        The order of summands is fixed, so the result and the gradient are deterministic.
        """
        rows = self.index.shape[0] * self.num_merged
        sums = _run(_SumOverTokens, _widen(x).flatten(0, 1), self._ends(), self.weights, rows)
        return sums.unflatten(0, (x.shape[0], self.num_merged))

    def gather(self, y: Tensor) -> Tensor:
        """(B, T', C) -> (B, N, C): weighted sum over the merged tokens that each token is linked to, the transpose of
        :meth:`sum`; with one link and no weights a copy, bit for bit.
        """
        exact = self.weights is None and self.index.shape[-1] == 1
        rows = _run(_GatherMerged, (y if exact else _widen(y)).flatten(0, 1), self._ends(), self.weights)
        return rows.unflatten(0, self.index.shape[:2]).to(y.dtype)

    def then(self, later: 'Links') -> 'Links':
        """Links (B, N, k * k'') of these tokens to those of a later merging, k'' each; weights are multiplied."""
        batch, num_tokens, links = later.index.shape
        first = self.index.flatten(1)  # (B, N*k)
        if num_tokens != self.num_merged:
            raise ValueError(f'a merging into {self.num_merged} tokens cannot go before one of {num_tokens} tokens')

        def pairs(x: Tensor) -> Tensor:
            x = x.gather(1, first[..., None].expand(-1, -1, links))  # (B, N*k, k'')
            return x.view(batch, self.index.shape[1], -1)  # (B, N, k*k'')

        weights = None if later.weights is None else pairs(later.weights)
        if self.weights is not None:
            own = self.weights.repeat_interleave(links, dim=-1)
            weights = own if weights is None else own * weights
        return Links(pairs(later.index), later.num_merged, weights)

    def _ends(self) -> Tensor:
        """(B*N, k) row of the B*T' merged tokens at the end of each link."""
        image = torch.arange(self.index.shape[0], device=self.index.device)
        return (self.index + image[:, None, None] * self.num_merged).flatten(0, 1)


def _run(function: type[torch.autograd.Function], x: Tensor, *args: Any) -> Tensor:
    """Run one of the functions below; its forward alone where no gradient is asked for, and for ``torch.jit.trace``,
    which has no functions of Python: a trace has the gradients of the operators in it.
    """
    own_backward = torch.is_grad_enabled() and x.requires_grad and not torch.jit.is_tracing()
    return (function.apply if own_backward else function.forward)(x, *args)


class _SumOverTokens(torch.autograd.Function):
    """:meth:`Links.sum` of rows; the backward is :class:`_GatherMerged`: no scatter-add, deterministic."""

    @staticmethod
    def forward(x: Tensor, ends: Tensor, weights: Tensor | None, num_rows: int) -> Tensor:
        if compat.is_exporting():  # ONNX has no sum over bags; its scatter adds in the order of tokens, too
            rows = x[:, None] if weights is None else x[:, None] * weights.reshape(*ends.shape, 1).to(x.dtype)
            rows = rows.expand(-1, ends.shape[1], -1).flatten(0, 1)
            return x.new_zeros(num_rows, x.shape[1]).index_add(0, ends.flatten(), rows)
        # Links sorted by merged token, in the order of tokens, and where each merged token begins.
        sorted_ends, order = ends.flatten().sort(stable=True)
        begin = torch.searchsorted(sorted_ends, torch.arange(num_rows, device=ends.device))
        weights = None if weights is None else weights.flatten()[order].to(x.dtype)
        tokens = order // ends.shape[1]
        return F.embedding_bag(tokens, x, begin, mode='sum', per_sample_weights=weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ends, weights, _ = inputs
        ctx.save_for_backward(ends, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _GatherMerged.apply(grad, *ctx.saved_tensors), None, None, None


class _GatherMerged(torch.autograd.Function):
    """:meth:`Links.gather` of rows; the backward is :class:`_SumOverTokens`."""

    @staticmethod
    def forward(y: Tensor, ends: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None and ends.shape[1] == 1:
            return y.index_select(0, ends[:, 0])
        weights = None if weights is None else weights.reshape(ends.shape).to(y.dtype)
        if compat.is_exporting():
            return (y[ends] if weights is None else y[ends] * weights[..., None]).sum(dim=1)
        return F.embedding_bag(ends, y, mode='sum', per_sample_weights=weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        y, ends, weights = inputs
        ctx.num_rows = y.shape[0]
        ctx.save_for_backward(ends, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _SumOverTokens.apply(_widen(grad), *ctx.saved_tensors, ctx.num_rows).to(grad.dtype), None, None


@dataclass(frozen=True, eq=False)
class Merging:
    """N tokens merged into T', and the way back.

    It does not know who made it. Most ways of merging put each token into one merged token:
    :meth:`from_assignment`. A soft one shares a token among several merged tokens, and may share it otherwise on the
    way back.

    Attributes:
        shares (Links): How strongly each token counts in which merged tokens.
        rebuild (Links, optional): Of which merged tokens each token is rebuilt, with weights that sum to 1; None if
            each token is a copy of its only merged token.
    """

    shares: Links
    rebuild: Links | None = None

    @classmethod
    def from_assignment(cls, assignment: Tensor, num_merged: int) -> 'Merging':
        """Put each token into one merged token: (B, N) int64 in [0, T')."""
        return cls(Links(assignment[..., None], num_merged))

    @property
    def num_tokens(self) -> int:
        """Tokens N before merging."""
        return self.shares.index.shape[1]

    @property
    def num_merged(self) -> int:
        """Tokens T' after merging."""
        return self.shares.num_merged

    @property
    def assignment(self) -> Tensor:
        """(B, N) int64; the merged token that each token is in, or where it is shared, has most weight in."""
        links = self.rebuild or self.shares
        if links.weights is None:
            return links.index[..., 0]
        return links.index.gather(-1, links.weights.argmax(-1, keepdim=True))[..., 0]

    @property
    def sizes(self) -> Tensor:
        """(B, T') float, at least float32; how many tokens each merged token is made of."""
        like = self.shares.index if self.shares.weights is None else self.shares.weights
        ones = torch.ones(like.shape[:2], dtype=_wide(like.dtype), device=like.device)
        return self.sum(ones[..., None])[..., 0]

    def sum(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, T', C), the sum over each merged token's sources, at least float32."""
        return self.shares.sum(x)

    def merge(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, T', C), the mean over each merged token's sources; 0 where weights sum to 0.

        ``weights`` (B, N) are how much each token counts, such as the sizes of tokens that were merged before.
        """
        weights = x.new_ones(x.shape[:2]) if weights is None else weights
        counted = _widen(weights)[..., None]  # (B, N, 1)
        total, count = self.sum(torch.cat([x * counted, counted], dim=-1)).split([x.shape[-1], 1], dim=-1)
        return (total / count.masked_fill(count == 0, 1)).to(x.dtype)

    def unmerge(self, y: Tensor) -> Tensor:
        """(B, T', C) -> (B, N, C): give each token back what became of it."""
        return (self.rebuild or self.shares).gather(y)

    def then(self, later: 'Merging') -> 'Merging':
        """This merging and a later one as one.

        Args:
            later (Merging): Merging of the T' tokens that this one makes, into T''.

        Returns:
            Merging: From N tokens to T''. It merges as the two do one after the other if the later one is given
            :attr:`sizes` as weights; it unmerges as the two do.

        Raises:
            ValueError: If the later one does not take T' tokens.
        """
        rebuild = None
        if self.rebuild or later.rebuild:
            rebuild = (self.rebuild or self.shares).then(later.rebuild or later.shares)
        return Merging(self.shares.then(later.shares), rebuild)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type to sum in: float64 stays, all else is float32."""
    return torch.promote_types(dtype, torch.float32)


def _widen(x: Tensor) -> Tensor:
    return x.to(_wide(x.dtype))
