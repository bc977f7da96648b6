"""What PyTorch's exporter has no ONNX for, or a wrong one, in operators of ONNX."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch


def translations() -> dict[Callable, Callable]:
    """The table that :func:`torch.onnx.export` takes; onnxscript must be installed.

    Returns:
        dict[Callable, Callable]: To each operator of a graph what builds it in ONNX.
    """
    from onnxscript import opset20

    op: Any = opset20  # its types are those of numbers, not of a graph that is being built

    def sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Sequence[Any]:
        # TopK of all. Of equals it gives the lower index first (ONNX's specification), so it is a stable sort.
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]), axis=0)
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    def searchsorted(self: Any, values: Any, right: bool = False) -> Any:
        # The place of a value is the number of entries before it.
        entries, values = op.Unsqueeze(self, [-2]), op.Unsqueeze(values, [-1])
        before = op.LessOrEqual(entries, values) if right else op.Less(entries, values)
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

    def tensors(self: Any, other: Any) -> tuple[Any, Any]:
        # One of the two may be a number.
        if isinstance(self, int):
            return op.CastLike(op.Constant(value_int=self), other), other
        return self, op.CastLike(other, self)

    def floor_divide(self: Any, other: Any) -> Any:
        return floordiv(*tensors(self, other))

    def modulo(self: Any, other: Any) -> Any:
        return op.Mod(*tensors(self, other))

    def erfinv(self: Any) -> Any:
        # Of constants alone, the directions of ProjectionGrouping: the exporter computes it and keeps the result.
        def number(value: float) -> Any:
            return op.CastLike(op.Constant(value_float=value), self)

        # Winitzki's approximation, then Newton's method on erf(x) = y.
        log = op.Log(op.Sub(number(1), op.Mul(self, self)))
        half = op.Add(number(2 / (math.pi * 0.147)), op.Div(log, number(2)))
        root = op.Sqrt(op.Sub(op.Mul(half, half), op.Div(log, number(0.147))))
        x = op.Mul(op.Sign(self), op.Sqrt(op.Sub(root, half)))
        for _ in range(5):
            slope = op.Div(op.Exp(op.Mul(x, x)), number(2 / math.sqrt(math.pi)))
            x = op.Sub(x, op.Mul(op.Sub(op.Erf(x), self), slope))
        return x

    def shares(side: Any, count: int, like: Any) -> Any:
        # (count, side): how much each row counts in each of so many runs, which may overlap by one row.
        def number(value: int) -> Any:
            return op.Constant(value_int=value)

        run = op.Unsqueeze(op.Range(number(0), number(count), number(1)), [1])
        first = op.Div(op.Mul(run, side), number(count))
        end = op.Div(op.Add(op.Mul(op.Add(run, number(1)), side), number(count - 1)), number(count))
        row = op.Unsqueeze(op.Range(number(0), side, number(1)), [0])
        inside = op.CastLike(op.And(op.LessOrEqual(first, row), op.Less(row, end)), like)
        return op.Div(inside, op.CastLike(op.Sub(end, first), like))

    def adaptive_avg_pool2d(self: Any, output_size: Sequence[int]) -> Any:
        # The exporter's own is right for the size it was traced with alone.
        height, width = (op.Squeeze(op.Shape(self, start=i, end=i + 1), [0]) for i in (2, 3))
        rows, columns = output_size
        left = op.MatMul(shares(height, rows, self), self)  # (B, C, rows, W)
        return op.MatMul(left, op.Transpose(shares(width, columns, self), perm=[1, 0]))

    return {
        torch.ops.aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
        torch.ops.aten._adaptive_avg_pool2d.default: adaptive_avg_pool2d,
        torch.ops.aten.sort.stable: sort,
        torch.ops.aten.searchsorted.Tensor: searchsorted,
        torch.ops.prims.erf_inv.default: erfinv,
        torch.ops.aten.remainder.Scalar: remainder,
        torch.ops.aten.remainder.Scalar_Tensor: modulo,
        torch.ops.aten.floor_divide.default: floor_divide,
        operator.floordiv: floordiv,
    }
