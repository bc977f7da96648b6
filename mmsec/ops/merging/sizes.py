"""Arithmetic on sizes, for graphs that serve any size.

``torch.jit.trace`` hands sizes out as tensors. What Python's own functions make of them are constants of the graph.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def at_least(size: int, number: int) -> int:
    """The larger of a size and a number."""
    return size.clamp_min(number) if isinstance(size, Tensor) else max(number, size)


def at_most(number: int, size: int) -> int:
    """The smaller of a number, which may be a size, and a size."""
    return size.clamp_max(number) if isinstance(size, Tensor) else min(number, size)


def double(size: int) -> float:
    """A size to multiply by a number. A tensor of integers times a number would be float32, not float64 as Python's."""
    return size.double() if isinstance(size, Tensor) else size


def rounded(number: float, rounding: Callable[[float], int] = math.floor) -> int:
    """A number from 0 up, rounded to a size: by ``math.floor``, or by ``round``, halves to the even one."""
    if isinstance(number, Tensor):
        return (number.round() if rounding is round else number).long()
    return rounding(number)


def largest(counts: Tensor) -> int:
    """The largest of some counts, as a size."""
    most = counts.max()
    return most if torch.jit.is_tracing() else int(most)  # type: ignore[return-value]  # as above
