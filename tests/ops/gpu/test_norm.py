"""The kernels of residual and LayerNorm, in Triton's interpreter, against plain torch in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip('triton', reason='Triton is not installed')

from mmsec.ops.kernels.gpu import launch, norm
from tests.ops.gpu.conftest import assert_near, in_double, with_gradients

NAMES = ('x', 'branch', 'scale', 'drawn', 'keep', 'weight', 'bias', 'eps')


def plain(x, branch, scale, drawn, keep, weight, bias, eps):
    """What is right, in x's type but for the norm's sums."""
    if branch is not None:
        branch = branch if scale is None else branch * scale.to(x.dtype)
        if drawn is not None:
            branch = branch.div(keep) * (keep + drawn).to(x.dtype).floor().view(-1, 1, 1, 1)
        x = x + branch
    if weight is None:
        return x, None
    weight, bias = (t if t is None else t.to(x.dtype) for t in (weight, bias))
    return x, F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def inputs(size: tuple[int, int, int, int], dtype: torch.dtype, without: str = '') -> list:
    """Arguments of :func:`norm.residual_norm`; those whose names are in ``without`` are None."""
    x, branch = (torch.randn(2, *size).to(dtype) + 3).requires_grad_()
    scale, weight, bias = torch.randn(3, size[-1]).requires_grad_()
    drawn = torch.linspace(0, 0.99, size[0]).to(dtype)
    args = [x, branch, scale, drawn, 0.6, weight, bias, 0.1]
    return [None if name in without.split() else arg for name, arg in zip(NAMES, args, strict=True)]


@pytest.mark.parametrize(
    ('size', 'dtype', 'without', 'graded'),
    [
        ((3, 5, 7, 80), torch.float32, '', 'both'),
        ((2, 3, 1, 640), torch.float32, 'drawn', 'both'),
        ((1, 1, 1, 6), torch.float32, 'scale', 'both'),
        ((2, 3, 5, 16), torch.float32, 'scale drawn', 'both'),
        ((2, 3, 5, 16), torch.float32, '', 'normed'),
        ((2, 3, 5, 16), torch.float32, '', 'total'),
        ((2, 3, 5, 16), torch.float32, 'branch scale drawn', 'both'),
        ((2, 3, 5, 16), torch.float32, 'branch scale drawn bias', 'normed'),
        ((3, 2, 5, 16), torch.float32, 'weight bias', 'total'),
        ((3, 2, 5, 16), torch.float32, 'weight bias scale drawn', 'total'),
        ((3, 4, 5, 112), torch.float16, 'scale', 'both'),  # a scale in float32 makes a float32 sum: test_refusals.py
        ((3, 4, 5, 48), torch.bfloat16, 'scale', 'both'),
    ],
)
def test_results_and_gradients(size, dtype, without, graded):
    args = inputs(size, dtype, without)
    assert norm.serves(*args[:4], *args[5:7]) is None
    grads = [torch.randn(size).to(dtype) if graded in (name, 'both') else None for name in ('total', 'normed')]
    exact = with_gradients(plain, in_double(args), grads)
    assert_near(with_gradients(norm.residual_norm, args, grads), with_gradients(plain, args, grads), exact)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])  # the interpreter cuts off what bfloat16 rounds
def test_images_are_dropped_as_in_plain_torch(dtype):
    keep, drawn = 0.7, torch.tensor([0.0, 0.29, 0.2998, 0.3, 0.3008, 0.9998]).to(dtype)  # near where sums round to 1
    x = torch.zeros(6, 1, 1, 8, dtype=dtype)
    out = norm.residual(x, torch.ones_like(x), None, drawn, keep)
    assert torch.equal(out[:, 0, 0, 0], torch.ones(6, dtype=dtype).div(keep) * (keep + drawn).floor())


def test_statistics():
    args = inputs((1, 3, 2, 40), torch.float32)
    total, _, mean, rstd = norm.forward(*args)
    torch.testing.assert_close(mean, total.mean(-1).flatten())
    torch.testing.assert_close(rstd, (total.var(-1, correction=0) + 0.1).rsqrt().flatten())


@pytest.mark.parametrize(
    ('wanted', 'without', 'kernels'),
    [
        ('x branch scale weight bias', '', ['_backward', '_reduce']),
        ('x branch', '', ['_backward']),
        ('weight', '', ['_backward', '_reduce']),
        ('x branch', 'weight bias', ['_backward']),
        ('x branch', 'weight bias scale drawn', []),
        ('x', 'weight bias', []),
    ],
)
def test_launches(launches, wanted, without, kernels):
    args = dict(zip(NAMES, inputs((2, 2, 3, 8), torch.float32, without), strict=True))
    args |= {name: a.detach().requires_grad_(name in wanted) for name, a in args.items() if isinstance(a, Tensor)}
    out = norm.residual_norm(*args.values())
    assert launches == ['_forward']
    sum(t.sum() for t in out if t is not None).backward()  # gradients that are expanded
    assert launches[1:] == kernels
    assert {name for name, a in args.items() if isinstance(a, Tensor) and a.grad is not None} == set(wanted.split())


def test_nothing_is_kept_where_no_gradient_is_wanted():
    with torch.no_grad():
        assert norm.residual_norm(*inputs((2, 2, 3, 8), torch.float32))[0].grad_fn is None


def test_long_runs_and_every_tile_sum_the_same(monkeypatch):
    args, grads = inputs((2, 9, 7, 24), torch.float32), list(torch.randn(2, 2, 9, 7, 24))
    first, again = (with_gradients(norm.residual_norm, args, grads) for _ in range(2))
    assert all(map(torch.equal, first, again))
    monkeypatch.setattr(norm, '_PROGRAMS', 1)
    monkeypatch.setattr(norm, '_RUNS', 1)
    monkeypatch.setattr(launch, 'tile', lambda kernel, key, candidates: dict(SIZE=64, warps=1))
    torch.testing.assert_close(with_gradients(norm.residual_norm, args, grads), first, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ('reason', 'change'),
    [
        ('channels', dict(x=torch.randn(2, 1, 1, 1025))),
        ('branch', dict(branch=torch.randn(1, 1, 3, 8))),
        ('drawn', dict(drawn=torch.rand(3))),
        ('width', dict(weight=torch.randn(7))),
        ('strides', dict(x=torch.randn(2, 1, 8, 3).transpose(2, 3))),
        ('float64', dict(scale=torch.randn(8).double())),
    ],
)
def test_what_is_not_served(reason, change):
    args = dict(zip(NAMES, inputs((2, 1, 3, 8), torch.float32), strict=True)) | change
    assert reason in norm.serves(*(args[name] for name in ('x', 'branch', 'scale', 'drawn', 'weight', 'bias')))
