"""What the tests of Triton kernels share. They run in Triton's interpreter where there is no GPU."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmsec import compat

if compat.why_not('GPU kernels'):
    collect_ignore_glob = ['test_*.py']


@pytest.fixture(autouse=True)
def _quick_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs for scores, with several tiles each, and xor sums by NumPy: the interpreter loops over elements."""
    import triton.language as tl
    from triton.runtime import interpreter

    from mmsec.ops.kernels.gpu import score

    tiles = {'score_sums': [dict(BT=16, PARTS=4, warps=4)], 'scores': [dict(BT=64, warps=4)]}
    monkeypatch.setattr(score, 'TILES', tiles)
    slow = interpreter.ReduceOps.generic_reduce

    def reduce(self: Any, values: Any) -> Any:
        if self.combine_fn != tl.standard._xor_combine:
            return slow(self, values)
        sums = (np.bitwise_xor.reduce(x.handle.data, axis=self.axis, keepdims=self.keep_dims) for x in values)
        return [self.to_tensor(each, x.dtype) for each, x in zip(sums, values, strict=True)]

    monkeypatch.setattr(interpreter.ReduceOps, 'generic_reduce', reduce)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that are started."""
    from mmsec.ops.kernels.gpu import launch

    names, start = [], launch.launch

    def counted(kernel: Any, *args: Any, **options: Any) -> None:
        names.append(kernel.__name__)
        start(kernel, *args, **options)

    monkeypatch.setattr(launch, 'launch', counted)
    return names


def with_gradients(function: Callable, args: Iterable, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Results of a function, and gradients of those arguments that want one; ``grads`` are of the results."""
    args = [a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in args]
    out = function(*args)
    outs = out if isinstance(out, tuple) else (out,)
    given = [(o, g.to(o.dtype)) for o, g in zip(outs, grads, strict=True) if o is not None and g is not None]
    torch.autograd.backward(*zip(*given, strict=True))
    return [None if o is None else o.detach() for o in outs] + [a.grad for a in args if _learns(a)]


def in_double(args: Iterable) -> list:
    """Arguments in float64."""
    return [
        a.detach().double().requires_grad_(a.requires_grad) if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in args
    ]


def assert_near(found: Iterable, same_type: Iterable, exact: Iterable) -> None:
    """Errors are at most twice those of plain torch in the same type, which is the rule of FlashAttention."""
    for got, usual, right in zip(found, same_type, exact, strict=True):
        if right is None:
            assert got is None
            continue
        assert got.dtype == usual.dtype
        assert (got - right).norm() <= 2 * (usual - right).norm() + 1e-6 * right.norm()


def _learns(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad
