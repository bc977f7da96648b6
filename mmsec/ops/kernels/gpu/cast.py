"""Casts of many tensors in one launch, such as the weights of a block under autocast."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmsec.ops.kernels.gpu import launch


def _copies(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> tuple[Tensor, ...]:
    """Copies of such types, one launch for each pair of types: PyTorch reads the first of a list for all of it."""
    copies = tuple(torch.empty_like(t, dtype=dtype) for t, dtype in zip(tensors, dtypes, strict=True))
    pairs: dict[tuple[torch.dtype, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
    for copy, tensor in zip(copies, tensors, strict=True):
        pairs.setdefault((copy.dtype, tensor.dtype), []).append((copy, tensor))
    for each in pairs.values():
        torch._foreach_copy_([copy for copy, _ in each], [tensor for _, tensor in each])
    return copies


def cast_together(dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Copies of tensors in another type, without gradients.

    Args:
        dtype (torch.dtype): Of the copies.
        tensors (Tensor): On one device. Those of one type are cast by one launch.

    Returns:
        tuple[Tensor, ...]: The copies.
    """
    return _copies(tensors, [dtype] * len(tensors))


class CastTogether(torch.autograd.Function):
    """:func:`cast_together` with gradients: ``CastTogether.apply(dtype, *tensors)``.

    The backward casts those gradients that are there, each to its tensor's type, in the same way.
    """

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [t.dtype for t in tensors]
        ctx.set_materialize_grads(False)
        return cast_together(dtype, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        launch.refuse_second_derivatives()
        there = {i: grad for i, grad in enumerate(grads) if grad is not None and ctx.needs_input_grad[i + 1]}
        copies = dict(zip(there, _copies(list(there.values()), [ctx.dtypes[i] for i in there]), strict=True))
        return (None, *(copies.get(i) for i in range(len(grads))))
