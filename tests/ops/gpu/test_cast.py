"""Casts of many tensors at once."""

import pytest
import torch

pytest.importorskip('triton', reason='Triton is not installed')

from mmsec.ops.kernels.gpu.cast import CastTogether, cast_together


@pytest.fixture
def calls(monkeypatch):
    """How many tensors each call copies."""
    counts, copy = [], torch._foreach_copy_

    def counted(copies, tensors):
        counts.append(len(tensors))
        copy(copies, tensors)

    monkeypatch.setattr(torch, '_foreach_copy_', counted)
    return counts


def test_copies_and_gradients_are_those_of_casts(calls):
    tensors = [torch.randn(3, 4), torch.randn(5), torch.randn(2, 1, 3, 3)]
    own, other = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    copies = CastTogether.apply(torch.float16, *own)
    assert calls == [3]
    for copy, tensor in zip(copies, tensors, strict=True):
        assert torch.equal(copy, tensor.half())
    sum((c.sin() * 3).sum() for c in copies).backward()
    sum((t.half().sin() * 3).sum() for t in other).backward()
    assert calls == [3, 3]
    for a, b in zip(own, other, strict=True):
        assert a.grad.dtype == torch.float32
        assert torch.equal(a.grad, b.grad)


def test_only_gradients_that_are_there_are_cast(calls):
    used, unused, frozen = torch.randn(2, requires_grad=True), torch.randn(2, requires_grad=True), torch.randn(2)
    copies = CastTogether.apply(torch.bfloat16, used, unused, frozen)
    (copies[0] * copies[2]).sum().backward()
    assert calls == [3, 1]
    assert used.grad is not None
    assert unused.grad is None
    assert frozen.grad is None


def test_types_may_be_mixed(calls):
    tensors = [torch.randn(2, requires_grad=True), torch.randn(3).half().requires_grad_(), torch.randn(4).t()]
    copies = CastTogether.apply(torch.bfloat16, *tensors)
    assert calls == [2, 1]
    sum(c.sum() for c in copies).backward()
    assert [t.grad.dtype for t in tensors[:2]] == [torch.float32, torch.float16]
    assert all(torch.equal(t.grad, torch.ones_like(t)) for t in tensors[:2])


def test_without_gradients():
    weight = torch.randn(3, 4, requires_grad=True)
    with torch.no_grad():
        (copy,) = cast_together(torch.float16, weight)
    assert torch.equal(copy, weight.half())
    assert not copy.requires_grad
    assert cast_together(torch.float16) == ()
