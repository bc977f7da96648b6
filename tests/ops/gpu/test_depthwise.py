"""The depthwise kernels, in Triton's interpreter, against plain torch in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip('triton')

from mmsec.ops.kernels.gpu import depthwise, launch


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels that are started."""
    names, start = [], launch.launch

    def counted(kernel, grid, *args, warps=4, stages=2):
        names.append(kernel.__name__)
        start(kernel, grid, *args, warps=warps, stages=stages)

    monkeypatch.setattr(launch, 'launch', counted)
    return names


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gelu: bool) -> Tensor:
    """What is right, in x's type."""
    t = F.gelu(x) if gelu else x
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    mixed = F.conv2d(t.permute(0, 3, 1, 2), weight, bias, 1, weight.shape[-1] // 2, 1, len(weight))
    return (t if residual is None else residual) + mixed.permute(0, 2, 3, 1)


def with_gradients(function, grad: Tensor, *args) -> list[Tensor | None]:
    """A result, and the gradients of the tensors among the arguments."""
    args = [a.detach().requires_grad_() if isinstance(a, Tensor) else a for a in args]
    out = function(*args)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(a.grad for a in args if isinstance(a, Tensor))]


def near(got: Tensor, same_type: Tensor, exact: Tensor) -> bool:
    """Whether the error is at most twice that of plain torch in the same type."""
    error = (got.double() - exact).abs().max()
    return error <= 2 * (same_type.double() - exact).abs().max() + 1e-6 * exact.abs().max()


def inputs(size: tuple[int, int, int, int], kernel: int, dtype: torch.dtype, bias: bool, residual: bool) -> list:
    """A map, weight, bias, residual."""
    x = torch.randn(size).to(dtype)
    weight = torch.randn(size[3], 1, kernel, kernel) / kernel
    return [x, weight, torch.randn(size[3]) if bias else None, torch.randn(size).to(dtype) if residual else None]


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
    grad = torch.randn(size).to(dtype)
    assert depthwise.serves(*args[:4]) is None
    found = with_gradients(depthwise.depthwise, grad, *args)
    same_type = with_gradients(plain, grad, *args)
    exact = with_gradients(plain, grad, *(a.double() if isinstance(a, Tensor) else a for a in args))
    for got, other, right in zip(found, same_type, exact, strict=True):
        assert got.dtype == other.dtype
        assert near(got, other, right)


def test_weights_of_half_precision_have_gradients_of_their_type():
    x, weight, bias, _ = inputs((1, 3, 4, 8), 3, torch.float16, True, False)
    out = with_gradients(depthwise.depthwise, torch.ones_like(x), x, weight.half(), bias.half(), None, False)
    assert [each.dtype for each in out] == [torch.float16] * 4


def test_part_of_a_wider_map_in_place():
    size, channels = (2, 3, 5), 8
    wide, grad = torch.randn(*size, 3 * channels), torch.randn(*size, channels)
    values, before = wide[..., 2 * channels :], wide.clone()
    weight = torch.randn(channels, 1, 5, 5)
    out = depthwise.forward(values, weight, None, grad, False)
    torch.testing.assert_close(out, plain(values, weight, None, grad, False))
    right = with_gradients(plain, grad, values, weight, None, None, False)
    right = right[1] - grad + values  # without the residual's gradient, and with what was there
    assert depthwise.input_gradient(grad, weight, values, out=values) is values
    torch.testing.assert_close(values, right, atol=1e-5, rtol=1e-5)
    assert torch.equal(wide[..., : 2 * channels], before[..., : 2 * channels])


def test_launches(launches):
    x, weight, bias, _ = inputs((1, 2, 3, 8), 3, torch.float32, True, False)
    depthwise.depthwise(x, weight.requires_grad_(), bias, None, True).sum().backward()  # a gradient that is expanded
    assert launches == ['_convolve', '_weight_gradient', '_reduce']
    launches.clear()
    depthwise.depthwise(x.requires_grad_(), weight.detach(), bias, None, True).sum().backward()
    assert launches == ['_convolve', '_convolve']
    with torch.no_grad():
        assert depthwise.depthwise(x, weight, bias, None, True).grad_fn is None


def test_long_runs_and_every_tile_sum_the_same(monkeypatch):
    x, weight, bias, _ = inputs((1, 17, 6, 40), 3, torch.float32, True, False)
    grad = torch.randn_like(x)
    first = depthwise.weight_gradient(grad, x, weight, bias, False)
    again = depthwise.weight_gradient(grad, x, weight, bias, False)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    monkeypatch.setattr(depthwise, '_PROGRAMS', 1)
    monkeypatch.setattr(launch, 'tile', lambda kernel, key, candidates: candidates[-1])
    torch.testing.assert_close(depthwise.weight_gradient(grad, x, weight, bias, False), first, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(depthwise.forward(x, weight, bias, None, False), plain(x, weight, bias, None, False))


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
