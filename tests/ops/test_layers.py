"""Fused ops over maps: each against the formula in its docstring."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsec import ops
from mmsec.models.layers.maps import LayerScale


def depthwise(kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=8).double()


def formula(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution of an NHWC map."""
    out = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, conv.stride, conv.padding, 1, conv.groups)
    return out.permute(0, 2, 3, 1)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 7, 9, 8, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize('kernel', [3, 5])
@pytest.mark.parametrize('compiled', [False, True])
def test_a_convolution_is_added_to_a_residual(x, kernel, compiled):
    conv, residual, function = depthwise(kernel), torch.randn_like(x), ops.conv_residual
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(function, backend='aot_eager', fullgraph=True)
    out, expected = function(x, conv, residual), residual + formula(conv, x)
    torch.testing.assert_close(out, expected)
    learnt = (x, *conv.parameters())
    weights = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad((out * weights).sum(), learnt), torch.autograd.grad((expected * weights).sum(), learnt)
    )


def test_the_norm_is_that_of_the_sum(x):
    conv, norm = depthwise(), nn.LayerNorm(8).double()
    total, normed = ops.conv_residual_norm(x, conv, norm)
    torch.testing.assert_close(total, x + formula(conv, x))
    torch.testing.assert_close(normed, norm(total))
    branch, scale = torch.randn_like(x), LayerScale(8, 0.5).double()
    total, normed = ops.residual_norm(x, branch, scale, nn.Identity(), norm)
    torch.testing.assert_close(total, x + branch / 2)
    torch.testing.assert_close(normed, norm(total))


def test_drop_path_is_of_the_branch(x):
    torch.testing.assert_close(ops.residual(x, x.square(), nn.Identity(), nn.Dropout(1.0)), x)


def test_gelu_is_mixed_with_its_neighbours(x):
    conv = depthwise()
    hidden = F.gelu(x)
    torch.testing.assert_close(ops.gelu_conv_residual(x, conv), hidden + formula(conv, hidden))


@pytest.mark.parametrize('compiled', [False, True])
def test_calling_a_block_through_the_seam_is_calling_it(compiled):
    block = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 4, 3))
    images, function = torch.randn(2, 3, 11, 14), ops.call
    if compiled:  # Inductor must not look into convolutions
        torch._dynamo.reset()
        function = torch.compile(function, backend='aot_eager', fullgraph=True)
    found, wanted = (torch.autograd.grad(f(images).square().sum(), list(block.parameters()))
                     for f in (lambda x: function(block, x), block))  # fmt: skip
    torch.testing.assert_close(found, wanted)


def test_a_compiled_graph_has_convolutions_as_operators_that_inductor_does_not_look_into():
    def operators(function, *inputs) -> list[str]:
        names = []
        torch._dynamo.reset()
        torch.compile(function, backend=lambda graph, _: names.extend(map(str, graph.graph.nodes)) or graph)(*inputs)
        return [name for name in names if 'conv2d' in name]

    conv, x = nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.randn(1, 5, 6, 8)
    assert operators(ops.conv_residual, x, conv, x) == ['conv2d_nhwc_default']
    assert operators(ops.call, conv, x.permute(0, 3, 1, 2)) == ['conv2d_nhwc_default']
