"""The depthwise kernels, in Triton's interpreter, against plain torch in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip('triton', reason='Triton is not installed')

from mmsec.ops.kernels.gpu import depthwise, launch
from tests.ops.gpu.conftest import assert_near, in_double, with_gradients


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gelu: bool) -> Tensor:
    """What is right, in x's type."""
    t = F.gelu(x) if gelu else x
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    mixed = F.conv2d(t.permute(0, 3, 1, 2), weight, bias, 1, weight.shape[-1] // 2, 1, len(weight))
    return (t if residual is None else residual) + mixed.permute(0, 2, 3, 1)


def inputs(size: tuple[int, int, int, int], kernel: int, dtype: torch.dtype, bias: bool, residual: bool) -> list:
    """A map, weight, bias, residual, all of which want a gradient."""
    x = torch.randn(size).to(dtype)
    weight = torch.randn(size[3], 1, kernel, kernel) / kernel
    args = [x, weight, torch.randn(size[3]) if bias else None, torch.randn(size).to(dtype) if residual else None]
    return [each if each is None else each.requires_grad_() for each in args]


@pytest.mark.parametrize(
    ('size', 'kernel', 'gelu', 'bias', 'residual', 'dtype'),
    [
        ((2, 9, 6, 16), 3, False, True, False, torch.float32),
        ((1, 2, 5, 72), 3, True, True, False, torch.float32),
        ((2, 3, 5, 8), 5, False, True, True, torch.float32),
        ((1, 1, 1, 7), 5, True, False, True, torch.float32),
        ((3, 9, 2, 16), 3, True, True, False, torch.float16),
        ((1, 4, 5, 24), 5, False, False, True, torch.float16),
        ((1, 4, 5, 16), 3, True, True, False, torch.bfloat16),
    ],
)
def test_result_and_gradients(size, kernel, gelu, bias, residual, dtype):
    args = [*inputs(size, kernel, dtype, bias, residual), gelu]
    grads = [torch.randn(size).to(dtype)]
    assert depthwise.serves(*args[:4]) is None
    exact = with_gradients(plain, in_double(args), grads)
    assert_near(with_gradients(depthwise.depthwise, args, grads), with_gradients(plain, args, grads), exact)


def test_weights_of_half_precision_have_gradients_of_their_type():
    args = [each.half().requires_grad_() for each in inputs((1, 3, 4, 8), 3, torch.float16, True, False)[:3]]
    found = with_gradients(depthwise.depthwise, [*args, None, False], [torch.ones(1, 3, 4, 8)])
    assert [each.dtype for each in found] == [torch.float16] * 4


def test_part_of_a_wider_map_in_place():
    size, channels = (2, 3, 5), 8
    wide, grad = torch.randn(*size, 3 * channels), torch.randn(*size, channels)
    values, before = wide[..., 2 * channels :], wide.clone()
    weight = torch.randn(channels, 1, 5, 5)
    out = depthwise.forward(values, weight, None, grad, False)
    torch.testing.assert_close(out, plain(values, weight, None, grad, False))
    right = with_gradients(plain, [values.detach().requires_grad_(), weight, None, None, False], [grad])[1]
    right += values - grad  # without the residual's gradient, and with what was there
    assert depthwise.input_gradient(grad, weight, values, out=values) is values
    torch.testing.assert_close(values, right, atol=1e-5, rtol=1e-5)
    assert torch.equal(wide[..., : 2 * channels], before[..., : 2 * channels])


def test_launches(launches):
    x, weight, bias = torch.randn(1, 2, 3, 8), torch.randn(8, 1, 3, 3), torch.randn(8)
    depthwise.depthwise(x, weight.requires_grad_(), bias, None, True).sum().backward()  # a gradient that is expanded
    assert launches == ['_convolve', '_weight_gradient', '_reduce']
    launches.clear()
    depthwise.depthwise(x.requires_grad_(), weight.detach(), bias, None, True).sum().backward()
    assert launches == ['_convolve', '_convolve']
    with torch.no_grad():
        assert depthwise.depthwise(x, weight, bias, None, True).grad_fn is None


def test_long_runs_and_every_tile_sum_the_same(monkeypatch):
    args = [*inputs((1, 17, 6, 40), 3, torch.float32, True, False), False]
    grads = [torch.randn_like(args[0])]
    first, again = (with_gradients(depthwise.depthwise, args, grads) for _ in range(2))
    assert all(map(torch.equal, first, again))
    monkeypatch.setattr(depthwise, '_PROGRAMS', 1)
    monkeypatch.setattr(launch, 'tile', lambda kernel, key, candidates: candidates[-1])
    torch.testing.assert_close(with_gradients(depthwise.depthwise, args, grads), first, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ('reason', 'change'),
    [
        ('kernel', dict(weight=torch.randn(8, 1, 7, 7))),
        ('weight', dict(weight=torch.randn(8, 1, 3, 3).transpose(2, 3))),
        ('strides', dict(x=torch.randn(1, 8, 2, 3).permute(0, 2, 3, 1))),
        ('float64', dict(x=torch.randn(1, 2, 3, 8).double())),
        ('residual', dict(residual=torch.randn(1, 2, 3, 8).half())),
    ],
)
def test_what_is_not_served(reason, change):
    args = dict(x=torch.randn(1, 2, 3, 8), weight=torch.randn(8, 1, 3, 3), bias=torch.randn(8), residual=None)
    assert reason in depthwise.serves(**(args | change))
