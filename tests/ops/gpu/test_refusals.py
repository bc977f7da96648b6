"""Layers and tensors that a kernel would compute wrongly: plain torch runs, and the reason is said."""

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmsec import ops
from mmsec.models.layers.maps import LayerScale
from tests.conftest import build_grouping

pytest.importorskip('triton', reason='Triton is not installed')


def conv(**options) -> nn.Conv2d:
    return nn.Conv2d(**dict(in_channels=16, out_channels=16, kernel_size=3, padding=1, groups=16) | options)


# Each is another function than the depthwise convolution that its weight and bias describe.
OTHERS = [
    conv(dilation=2, padding=2),
    conv(padding_mode='reflect'),
    conv(padding_mode='circular'),
    conv(groups=1),
    conv(groups=4),
    conv(padding='same'),
    conv(bias=False),
    conv(kernel_size=(3, 5), padding=(1, 2)),
]


def same(function, *inputs: Tensor | nn.Module, compiled: bool = False) -> None:
    """Kernels on or compiled, outputs and gradients are those of plain torch."""
    results = []
    learnt = [t for t in inputs if isinstance(t, Tensor)]
    learnt += [p for m in inputs if isinstance(m, nn.Module) for p in m.parameters()]
    for mode in ('off', 'measured' if compiled else 'on'):
        torch._dynamo.reset()
        run = torch.compile(function, backend='aot_eager') if compiled and mode != 'off' else function
        with ops.use_kernels(mode):
            out = run(*inputs)
        outs = out if isinstance(out, tuple) else (out,)
        loss = sum((o * torch.linspace(-1, 1, o.numel()).view_as(o)).sum() for o in outs)
        results.append([*outs, *torch.autograd.grad(loss, learnt)])
    for ours, wanted in zip(*results, strict=True):
        assert ours.dtype == wanted.dtype
        assert (ours - wanted).norm() <= 2e-5 * wanted.norm() + 1e-6


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 6, 16, requires_grad=True)


@pytest.mark.parametrize('layer', OTHERS, ids=str)
def test_convolutions_that_are_not_the_expected_one(x, layer):
    same(ops.gelu_conv_residual, x, layer)
    same(ops.conv_residual, x, layer, torch.randn(2, 5, 6, 16, requires_grad=True))


@pytest.mark.parametrize(
    'layer',
    [conv(dilation=2), conv(stride=(2, 1)), conv(padding=(1, 0)), conv(padding_mode='reflect'), conv(bias=False)],
    ids=str,
)
def test_convolutions_in_a_compiled_graph(layer):
    same(ops.call, layer, torch.randn(1, 16, 8, 8, requires_grad=True), compiled=True)


class Shifted(LayerScale):
    """Another layer scale, which kernels must not take for the one they know."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma + 1


@pytest.mark.parametrize(
    ('scale', 'norm'),
    [
        (Shifted(16), nn.LayerNorm(16)),
        (LayerScale(1, 0.5), nn.LayerNorm(16)),
        (nn.Identity(), nn.LayerNorm(16, bias=False)),
        (nn.Identity(), nn.LayerNorm(16, elementwise_affine=False)),
        (nn.Identity(), nn.LayerNorm((6, 16))),
    ],
)
def test_residuals_and_norms_that_are_not_the_expected_ones(x, scale, norm):
    branch = torch.randn(2, 5, 6, 16, requires_grad=True)
    same(ops.residual_norm, x, branch, scale, nn.Identity(), norm)
    same(ops.residual, x, torch.randn(1, 5, 6, 16, requires_grad=True), scale, nn.Identity())


@pytest.mark.parametrize('training', [True, False])
def test_a_layer_scale_in_float32_makes_the_sum_float32(training):
    x, branch = (torch.randn(3, 4, 4, 16).half().requires_grad_() for _ in range(2))
    scale, drop_path, norm = LayerScale(16, 4e-4), DropPath(0.5).train(training), nn.LayerNorm(16)
    results = []
    for mode in ('off', 'on'):
        torch.manual_seed(0)
        with ops.use_kernels(mode):
            total, normed = ops.residual_norm(x, branch, scale, drop_path, norm)
            total = ops.residual(total, branch, scale, drop_path)
        loss = (total * 3).sum() + (normed * torch.linspace(-1, 1, 16)).sum()
        results.append([total, normed, *torch.autograd.grad(loss, (x, branch, scale.gamma, norm.weight))])
    for ours, wanted in zip(*reversed(results), strict=True):
        assert ours.dtype == wanted.dtype
        torch.testing.assert_close(ours, wanted, atol=1e-3, rtol=1e-3)
    assert results[1][0].dtype == torch.float32


@pytest.mark.parametrize('kind', ['conv', 'lepe'])
def test_gradients_of_maps_of_one_token(kind):
    """Their strides may be anything, as those of channels-first consumers are."""
    torch.manual_seed(0)
    layer, image = conv(kernel_size=5, padding=2), torch.randn(3, 1, 1, 3 * 16, requires_grad=True)
    weights = torch.randn(3, 16, 1, 1)
    results = []
    for mode in ('off', 'on'):
        with ops.use_kernels(mode):
            if kind == 'conv':
                out = ops.conv_residual(image[..., :16], layer, image[..., 16:32])
            else:
                tokens = ops.Tokens(image.view(3, 1, 3, 1, 16), image[:, 0, :, None, :16], (1, 1))
                out = ops.lepe_attention(tokens, None, layer)
            loss = (out.permute(0, 3, 1, 2) * weights).sum()
        results.append(torch.autograd.grad(loss, (image, *layer.parameters())))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('width', [16, 24])
def test_scores_of_images_that_do_not_lie_one_after_the_other(width):
    qkv = torch.randn(2, 13, 3, 2, width)[:, 1:]  # behind a class token
    tokens = ops.Tokens(qkv, qkv[:, :, 0], (3, 4))
    grouping = build_grouping(dict(type='SemanticGrouping'))
    with ops.use_kernels('on'):
        ours = grouping(tokens, 4).order
    assert torch.equal(ours, grouping(tokens, 4).order)


@pytest.mark.parametrize(
    ('order', 'num_clusters'),
    [
        (torch.arange(12).expand(1, 1, -1), 4),
        (torch.arange(16).expand(1, 3, -1), 4),
        (torch.arange(16).expand(1, 1, -1), 40),
        (torch.arange(16).expand(1, 1, -1), 0),
    ],
)
def test_orders_that_do_not_fit_are_the_error_of_plain_torch(order, num_clusters):
    qkv, grouping = torch.randn(1, 16, 3, 2, 16), ops.Grouping(order, num_clusters)
    for mode in ('off', 'on'):
        with ops.use_kernels(mode), pytest.raises((RuntimeError, ValueError)):
            ops.qkv_attention(qkv, grouping)


@pytest.mark.parametrize('mode', ['measured', 'on'])
def test_second_derivatives_are_right_or_refused(x, mode):
    layer = conv()

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(ops.gelu_conv_residual(x, layer).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum() + x.sum(), x)[0]

    with ops.plain_torch():
        wanted = penalty()
    with ops.use_kernels(mode):
        if mode == 'on':
            with pytest.raises(RuntimeError, match='no second derivatives'):
                penalty()
        else:
            torch.testing.assert_close(penalty(), wanted)


@pytest.mark.parametrize('change', ['hook', 'sharded'])
def test_weights_that_something_else_looks_after_are_not_cast_together(change):
    block = nn.Sequential(nn.Linear(8, 8))
    if change == 'hook':
        block[0].register_forward_pre_hook(lambda *_: None)
    else:
        block[0].weight = type('Sharded', (nn.Parameter,), {'device_mesh': None})(torch.randn(8, 8))
    with ops.use_kernels('on'), torch.autocast('cpu', torch.float16):
        said = ops.explain(ops.call, block, torch.randn(2, 8))['call']['weights cast together']
    assert said != 'chosen'


def test_frozen_weights_stay_frozen_when_they_are_cast():
    seen = []
    block = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    block[0].requires_grad_(False)
    block[0].register_forward_hook(lambda layer, *_: seen.append((layer.weight.dtype, layer.weight.requires_grad)))
    with ops.use_kernels('on'), torch.autocast('cpu', torch.float16):
        ops.call(block, torch.randn(2, 8)).float().sum().backward()
    assert seen == [(torch.float16, False)]
    assert block[1].weight.grad.dtype == torch.float32
