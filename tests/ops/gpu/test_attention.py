"""Attention inside clusters, in the interpreter, against float64 computed cluster by cluster."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip('triton', reason='Triton is not installed')

from mmsec.ops import Grouping, cluster_ids
from mmsec.ops.kernels.gpu import attention, lepe
from tests.ops.gpu.conftest import assert_near, in_double, with_gradients


def angles(num_tokens: int, width: int) -> Tensor:
    """A rotary table (N, d/2, 2) of any angles."""
    angle = 6 * torch.rand(num_tokens, width // 2)
    return torch.stack([angle.cos(), angle.sin()], -1)


def orders(batch: int, heads: int, num_tokens: int) -> Tensor:
    """An order of its own for each image and head."""
    return torch.rand(batch, heads, num_tokens).argsort(-1)


def plain(qkv: Tensor, order: Tensor | None, table: Tensor | None, num_clusters: int) -> Tensor:
    """Attention of (B, N, 3, h, d) to the tokens of one's own cluster, in the type of qkv."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, h, N, d)
    if table is not None:
        cos, sin = table.to(torch.promote_types(qkv.dtype, table.dtype)).unbind(-1)  # (N, d/2)
        pairs = ((x[..., 0::2], x[..., 1::2]) for x in (q, k))
        q, k = (torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(qkv.dtype) for a, b in pairs)
    logits = q @ k.mT * q.shape[-1] ** -0.5
    if order is not None:
        ids = cluster_ids(Grouping(order, num_clusters))
        logits = logits.masked_fill(ids[..., None] != ids[..., None, :], -torch.inf)
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def kernels(qkv: Tensor, grad: Tensor, order: Tensor | None, table: Tensor | None, num_clusters: int) -> list[Tensor]:
    """The output of the kernels, and the gradient of qkv."""
    assert attention.serves(qkv, order, table) is None
    out, lse = attention.forward(qkv.detach(), order, table, num_clusters)
    return [out, attention.backward(grad, qkv.detach(), order, table, out, lse, num_clusters)]


HALF, FULL = torch.float16, torch.float32


@pytest.mark.parametrize(
    ('batch', 'num_tokens', 'heads', 'width', 'num_clusters', 'dtype'),
    [
        pytest.param(2, 63, 2, 32, 5, FULL, id='uneven'),
        pytest.param(2, 63, 2, 32, 5, HALF, id='uneven, half'),
        pytest.param(2, 36, 1, 16, 4, HALF, id='even'),
        pytest.param(1, 72, 2, 32, 1, HALF, id='one cluster'),
        pytest.param(1, 25, 2, 16, 25, HALF, id='clusters of one token'),
        pytest.param(1, 9, 1, 32, 7, FULL, id='clusters of one and two tokens'),
        pytest.param(2, 1, 2, 32, 1, FULL, id='one token'),
        pytest.param(1, 70, 2, 64, 3, HALF, id='wide heads'),
        pytest.param(1, 255, 1, 32, 2, HALF, id='a whole cluster of 128'),
        pytest.param(1, 301, 2, 32, 2, HALF, id='two passes'),
        pytest.param(1, 130, 1, 16, 1, FULL, id='two passes of one cluster'),
        pytest.param(1, 257, 1, 32, 2, HALF, id='two passes or one'),
    ],
)
def test_output_and_gradient(batch, num_tokens, heads, width, num_clusters, dtype):
    qkv = torch.randn(batch, num_tokens, 3, heads, width).to(dtype).requires_grad_()
    grad = torch.randn(batch, num_tokens, heads * width).to(dtype)
    place = orders(batch, heads, num_tokens), angles(num_tokens, width), num_clusters
    out, grad_qkv = kernels(qkv, grad, *place)
    assert grad_qkv.is_contiguous()
    usual, exact = (with_gradients(plain, (x, *place), [grad]) for x in (qkv, *in_double([qkv])))
    assert_near([out, grad_qkv], usual, exact)
    if num_tokens == num_clusters:  # a token that sees only itself
        assert torch.equal(out, qkv[:, :, 2].flatten(2))


@pytest.mark.parametrize('ordered', ['all', 'image', 'head', 'one', None])
@pytest.mark.parametrize('turned', [True, False])
def test_orders_and_tables(ordered, turned):
    batch, num_tokens, heads, width = 2, 20, 2, 32
    qkv = torch.randn(batch, num_tokens, 3, heads, width).half()
    grad = torch.randn(batch, num_tokens, heads * width).half()
    table = angles(num_tokens, width) if turned else None
    order = None
    if ordered:
        own = {'all': (batch, heads), 'image': (batch, 1), 'head': (1, heads), 'one': (1, 1)}[ordered]
        order = orders(*own, num_tokens)
        order = order.expand(batch, heads, -1) if ordered == 'image' else order
    place = order, table, 3 if ordered else 1
    exact = with_gradients(plain, (qkv.double().requires_grad_(), *place), [grad])
    for got, right in zip(kernels(qkv, grad, *place), exact, strict=True):
        assert (got - right).norm() < 1e-3 * right.norm()


def test_large_logits_stay_finite_and_two_runs_are_equal():
    qkv, grad = 60 * torch.randn(1, 130, 3, 1, 16).half(), torch.randn(1, 130, 16).half()
    place = orders(1, 1, 130), angles(130, 16), 1
    first, second = kernels(qkv, grad, *place), kernels(qkv, grad, *place)
    assert all(each.isfinite().all() for each in first)
    assert all(map(torch.equal, first, second))


def lepe_plain(
    x: Tensor, heads: int, order: Tensor | None, table: Tensor | None, num_clusters: int, weight: Tensor, bias: Tensor
) -> Tensor:
    """Attention plus a depthwise convolution of the values, in the type of x."""
    qkv = x.flatten(1, 2).unflatten(2, (3, heads, -1))
    values = x.chunk(3, -1)[2].permute(0, 3, 1, 2)
    position = F.conv2d(values, weight.to(x.dtype), bias.to(x.dtype), padding=2, groups=values.shape[1])
    return plain(qkv, order, table, num_clusters).view(*x.shape[:3], -1) + position.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ('num_clusters', 'size', 'dtype', 'started'),
    [
        (3, (2, 5, 7), FULL, 7),
        (3, (2, 5, 7), HALF, 6),
        (1, (1, 10, 13), HALF, 7),  # two passes
        (1, (1, 1, 1), HALF, 6),
    ],
)
def test_lepe(num_clusters, size, dtype, started, launches):
    heads, channels, num_tokens = 2, 32, size[1] * size[2]
    x = torch.randn(*size, 3 * channels + 16).to(dtype)[..., : 3 * channels].requires_grad_()  # strided
    order = orders(size[0], heads, num_tokens) if num_clusters > 1 else None
    place = heads, order, angles(num_tokens, channels // heads), num_clusters
    layer = (torch.randn(channels, 1, 5, 5) / 5).requires_grad_(), torch.randn(channels).requires_grad_()
    assert lepe.serves(x, *place, *layer) is None
    args, grads = (x, *place, *layer), [torch.randn(*size, channels).to(dtype)]
    out = lepe.lepe_attention(*args)
    found = [out.detach(), *torch.autograd.grad(out, (x, *layer), grads[0])]
    assert len(launches) == started
    assert_near(found, with_gradients(lepe_plain, args, grads), with_gradients(lepe_plain, in_double(args), grads))


@pytest.mark.parametrize(
    ('wanted', 'started'), [((), 2), (('weight',), 4), (('x',), 4)], ids=['nothing', 'weight', 'x']
)
def test_lepe_computes_only_what_is_wanted(wanted, started, launches):
    given = {'x': torch.randn(1, 4, 4, 96).half(), 'weight': torch.randn(32, 1, 5, 5), 'bias': torch.randn(32)}
    for name in wanted:
        given[name].requires_grad_()
    out = lepe.lepe_attention(given['x'], 1, None, None, 1, given['weight'], given['bias'])
    if wanted:
        out.sum().backward()
    assert len(launches) == started
    assert [name for name, each in given.items() if each.grad is not None] == list(wanted)


QKV, ORDER, TABLE = torch.zeros(2, 6, 3, 2, 32), torch.zeros(2, 2, 6, dtype=torch.int64), torch.zeros(6, 16, 2)


@pytest.mark.parametrize(
    ('reason', 'qkv', 'order', 'table'),
    [
        (None, QKV, ORDER, TABLE),
        (None, torch.zeros(2, 6, 3, 2, 128).half(), ORDER, None),
        ('128', torch.zeros(2, 6, 3, 2, 128), ORDER, None),  # of float32
        ('24', QKV[..., :24], ORDER, TABLE),
        ('float64', QKV.double(), ORDER, TABLE),
        ('strides', QKV[:, 1:], ORDER[..., :5], None),
        ('order', QKV, ORDER.int(), TABLE),
        ('order', QKV, ORDER[..., :5], TABLE),
        ('table', QKV, ORDER, TABLE.double()),
        ('table', QKV, ORDER, TABLE[1:]),
    ],
)
def test_what_is_not_served(reason, qkv, order, table):
    said = attention.serves(qkv, order, table)
    assert reason in said if reason else said is None
    x, weight = QKV.view(2, 2, 3, 192), torch.zeros(64, 1, 5, 5)
    if qkv is QKV:
        assert (lepe.serves(x, 2, order, table, 1, weight, None) is None) == (reason is None)
    assert '(64, 1, 7, 7)' in lepe.serves(x, 2, ORDER, TABLE, 1, torch.zeros(64, 1, 7, 7), None)
    assert attention.serves(QKV, ORDER, TABLE, 7) == 'not for 7 clusters of 6 tokens'
