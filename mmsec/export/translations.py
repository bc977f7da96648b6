"""Operators for which PyTorch's exporter has no ONNX, or ONNX that is wrong for dynamic sizes."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch


def translations() -> dict[Callable, Callable]:
    """The table that :func:`torch.onnx.export` takes: to each operator a function that builds it in ONNX."""
    from onnxscript import opset20

    op: Any = opset20  # its types are those of numbers, not of a graph that is being built

    def sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Sequence[Any]:
        # TopK of all. Of equals it gives the lower index first (ONNX's specification), so it is a stable sort.
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]), axis=0)
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    def tensors(self: Any, other: Any) -> tuple[Any, Any]:
        # One of the two may be a number, and the other an integer of the graph, such as a width.
        if isinstance(self, int):
            return op.CastLike(op.Constant(value_int=self), other), other
        return self, op.CastLike(other, self)

    def remainder(self: Any, other: Any) -> Any:
        # The exporter's own takes numbers alone.
        integer = isinstance(self, int) or self.dtype.is_integer()
        self, other = tensors(self, other)
        return op.Mod(self, other) if integer else op.Sub(self, op.Mul(other, op.Floor(op.Div(self, other))))

    def floor_divide(self: Any, other: Any) -> Any:
        # The exporter's own rounds towards zero, so that -(-a // b) is not rounded up.
        self, other = tensors(self, other)
        return op.Div(op.Sub(self, op.Mod(self, other)), other)

    def shares(side: Any, count: int, like: Any) -> Any:
        # (count, side): the weight of each row in each of ``count`` cells, which may overlap by one row.
        zero, one, cells = (op.Constant(value_int=value) for value in (0, 1, count))
        cell = op.Unsqueeze(op.Range(zero, cells, one), [1])
        first = op.Div(op.Mul(cell, side), cells)
        end = op.Div(op.Sub(op.Add(op.Mul(op.Add(cell, one), side), cells), one), cells)  # rounded up
        row = op.Unsqueeze(op.Range(zero, side, one), [0])
        inside = op.CastLike(op.And(op.LessOrEqual(first, row), op.Less(row, end)), like)
        return op.Div(inside, op.CastLike(op.Sub(end, first), like))

    def adaptive_avg_pool2d(self: Any, output_size: Sequence[int]) -> Any:
        # The exporter's own is right for the size it was traced with alone.
        height, width = (op.Squeeze(op.Shape(self, start=i, end=i + 1), [0]) for i in (2, 3))
        rows, columns = output_size
        left = op.MatMul(shares(height, rows, self), self)  # (B, C, rows, W)
        return op.MatMul(left, op.Transpose(shares(width, columns, self), perm=[1, 0]))

    return {
        torch.ops.aten._adaptive_avg_pool2d.default: adaptive_avg_pool2d,
        torch.ops.aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
        torch.ops.aten.sort.stable: sort,
        torch.ops.aten.remainder.Scalar: remainder,
        torch.ops.aten.remainder.Scalar_Tensor: remainder,
        torch.ops.aten.floor_divide.default: floor_divide,
        operator.floordiv: floor_divide,
    }
