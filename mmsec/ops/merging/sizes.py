"""Arithmetic on sizes, for graphs that serve any size.

``torch.jit.trace`` hands sizes out as tensors. What Python's own functions make of them are constants of the graph.
``torch.export`` hands out symbols, and a graph for any size cannot depend on what is known of them. So what is rounded,
or counted among the tokens, is a new symbol, of which is only known that it is no rare case.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmsec import compat


def at_least(size: int, number: int) -> int:
    """The larger of a size and a number."""
    return size.clamp_min(number) if isinstance(size, Tensor) else torch.sym_max(number, size)


def at_most(number: int, size: int) -> int:
    """The smaller of a number, which may be a size, and a size."""
    return size.clamp_max(number) if isinstance(size, Tensor) else renamed(torch.sym_min(number, size), 1)


def product(number: float, *sizes: int) -> float:
    """A number times sizes, in float64 as Python's: a tensor of integers times a number would be float32."""
    if any(isinstance(size, torch.SymInt) for size in sizes):
        number = torch.tensor(number, dtype=torch.float64)  # type: ignore[assignment]  # in ONNX a number is float32
        sizes = tuple(torch.scalar_tensor(size, dtype=torch.float64) for size in sizes)  # type: ignore[misc]
    for size in sizes:
        number = number * (size.double() if isinstance(size, Tensor) else size)
    return number


def rounded(number: float, rounding: Callable[[float], int] = math.floor) -> int:
    """A number from 0 up, rounded to a size: by ``math.floor``, or by ``round``, halves to the even one."""
    if isinstance(number, Tensor):
        return known((number.round() if rounding is round else number).long(), 1)
    return rounding(number)


def renamed(size: int, least: int = 16) -> int:
    """A size as a symbol of its own, so that what it is computed from does not pile up in a graph; see `known`."""
    if isinstance(size, torch.SymInt):
        return known(torch.scalar_tensor(size, dtype=torch.int64), least)
    return size


def known(count: Tensor, least: int = 16) -> int:
    """A count () as a size; ``torch.export`` makes its graph as for at least ``least``, and it serves fewer, too."""
    if torch.jit.is_tracing():
        return count  # type: ignore[return-value]
    size = count.item()
    if compat.is_exporting():
        torch._check(size >= least)
    return size  # type: ignore[return-value]  # an integer
