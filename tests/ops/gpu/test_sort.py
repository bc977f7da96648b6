"""The sort in one launch is torch's stable sort."""

from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from mmsec.ops.kernels.gpu import sort


@pytest.fixture(autouse=True)
def _quick_xor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes minutes for the xor sums of a long sort, which it computes element by element."""
    slow = interpreter.ReduceOps.generic_reduce

    def reduce(self: Any, values: Any) -> Any:
        if self.combine_fn != tl.standard._xor_combine:
            return slow(self, values)
        return [
            self.to_tensor(np.bitwise_xor.reduce(x.handle.data, axis=self.axis, keepdims=self.keep_dims), x.dtype)
            for x in values
        ]

    monkeypatch.setattr(interpreter.ReduceOps, 'generic_reduce', reduce)


@pytest.mark.parametrize('length', [1, 2, 100, 511, 512, 1050, 4200, 8192])
def test_order_is_that_of_torch(length: int) -> None:
    torch.manual_seed(0)
    scores = (torch.randn(2, 3, length) * 4).round() / 4  # with many ties
    special = torch.tensor([-0.0, 0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan, torch.nan, 3e38, -1e-45])
    scores[0, 1, : len(special)] = special[:length]
    scores[1, 2] = torch.nan
    assert sort.serves(scores) is None
    assert torch.equal(sort.argsort(scores), scores.argsort(dim=-1, stable=True))


def test_zeros_of_both_signs_keep_their_order() -> None:
    scores = torch.tensor([[0.0, -0.0, 1.0, -0.0, 0.0, -1.0]])
    assert sort.argsort(scores).tolist() == [[5, 0, 1, 3, 4, 2]]


def test_refused_scores() -> None:
    scores = torch.zeros(2, 8)
    assert 'float64' in (sort.serves(scores.double()) or '')
    assert 'contiguous' in (sort.serves(scores.T) or '')
    assert '8193' in (sort.serves(torch.zeros(1, 8193)) or '')
    assert sort.serves(torch.zeros(1, 0)) is not None
