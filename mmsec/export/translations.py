"""What PyTorch's exporter has no ONNX for, or a wrong one, in operators of ONNX."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch


def translations() -> dict[Callable, Callable]:
    """The table that :func:`torch.onnx.export` takes; onnxscript must be installed.

    Returns:
        dict[Callable, Callable]: To each operator of a graph what builds it in ONNX.
    """
    from onnxscript import opset20 as op

    def sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Sequence[Any]:
        # TopK of all. Of equals it gives the lower index first (ONNX's specification), so it is a stable sort.
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]), axis=0)
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    def searchsorted(
        self: Any, values: Any, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None
    ) -> Any:
        # The place of a value is the number of entries before it.
        entries, values = op.Unsqueeze(self, [-2]), op.Unsqueeze(values, [-1])
        before = op.LessOrEqual(entries, values) if right or side == 'right' else op.Less(entries, values)
        return op.ReduceSum(op.Cast(before, to=7), [-1], keepdims=0)  # 7 is int64

    def remainder(self: Any, other: Any) -> Any:
        # The exporter's own takes numbers alone, and here the divisor may be the width of a map of any size.
        other = op.CastLike(other, self)
        if self.dtype.is_integer():
            return op.Mod(self, other)
        return op.Sub(self, op.Mul(other, op.Floor(op.Div(self, other))))

    def floordiv(self: Any, other: Any) -> Any:
        # The exporter's own rounds towards zero, so that -(-a // b) is not rounded up.
        return op.Div(op.Sub(self, op.Mod(self, other)), other)

    return {
        torch.ops.aten.sort.stable: sort,
        torch.ops.aten.searchsorted.Tensor: searchsorted,
        torch.ops.aten.remainder.Scalar: remainder,
        operator.floordiv: floordiv,
    }
