"""Attention inside clusters, in the interpreter, against float64 computed cluster by cluster."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec.ops.kernels.gpu import attention, launch, lepe


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that start."""
    names: list[str] = []
    start = launch.launch

    def counted(kernel: Any, *args: Any, **options: Any) -> None:
        names.append(kernel.fn.__name__)
        start(kernel, *args, **options)

    monkeypatch.setattr(launch, 'launch', counted)
    return names


def angles(num_tokens: int, width: int) -> Tensor:
    """A rotary table (N, d/2, 2) of any angles."""
    angle = 6 * torch.rand(num_tokens, width // 2)
    return torch.stack([angle.cos(), angle.sin()], -1)


def orders(batch: int, heads: int, num_tokens: int) -> Tensor:
    """An order of its own for each image and head."""
    return torch.rand(batch, heads, num_tokens).argsort(-1)


def plain(qkv: Tensor, order: Tensor | None, table: Tensor | None, num_clusters: int) -> Tensor:
    """Attention of (B, N, 3, h, d), one cluster after the other, in the type of qkv."""
    q, k, v = qkv.unbind(2)  # (B, N, h, d)
    if table is not None:
        cos, sin = table.to(torch.promote_types(qkv.dtype, table.dtype))[:, None].unbind(-1)  # (N, 1, d/2)
        turned = []
        for x in (q, k):
            a, b = x[..., 0::2], x[..., 1::2]
            turned.append(torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(qkv.dtype))
        q, k = turned
    batch, num_tokens, heads, width = q.shape
    order = torch.arange(num_tokens)[None, None] if order is None else order
    order = order.expand(batch, heads, -1)
    images = []
    for image in range(batch):
        lists = []
        for head in range(heads):
            parts = []
            for tokens in order[image, head].tensor_split(num_clusters):  # the first N % M have one token more
                logits = q[image, tokens, head] @ k[image, tokens, head].T * width**-0.5
                parts.append(logits.softmax(-1) @ v[image, tokens, head])
            lists.append(torch.cat(parts)[order[image, head].argsort()])
        images.append(torch.stack(lists, 1).flatten(1))
    return torch.stack(images)


def error(got: Tensor, exact: Tensor) -> float:
    """Relative, of the norm."""
    return float((got.double() - exact).norm() / exact.norm())


def check(got: Tensor, usual: Tensor, exact: Tensor) -> None:
    """Whether an error is at most twice that of plain torch in the same type, which is the rule of FlashAttention."""
    assert got.dtype == usual.dtype
    assert error(got, exact) <= 2 * error(usual, exact) + 1e-6


def gradients(output: Tensor, grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The output without its history, and gradients of inputs."""
    return output.detach(), *torch.autograd.grad(output, inputs, grad.to(output.dtype))


CASES = {  # batch, tokens, heads, width, clusters
    'uneven': (2, 63, 2, 32, 5),
    'even': (2, 36, 1, 16, 4),
    'one cluster': (1, 72, 2, 32, 1),
    'clusters of one token': (1, 25, 2, 16, 25),
    'clusters of one and two tokens': (1, 25, 1, 32, 17),
    'one token': (2, 1, 2, 32, 1),
    'wide heads': (1, 70, 2, 64, 3),
    'a whole cluster of 128': (1, 255, 1, 32, 2),
    'two passes': (1, 301, 2, 32, 2),
    'two passes of one cluster': (1, 130, 1, 16, 1),
    'two passes or one': (1, 257, 1, 32, 2),
}


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('case', CASES.values(), ids=CASES.keys())
def test_output_and_gradient(case: tuple[int, ...], dtype: torch.dtype) -> None:
    batch, num_tokens, heads, width, num_clusters = case
    qkv = torch.randn(batch, num_tokens, 3, heads, width).to(dtype).requires_grad_()
    grad = torch.randn(batch, num_tokens, heads * width).to(dtype)
    order, table = orders(batch, heads, num_tokens), angles(num_tokens, width)
    assert attention.serves(qkv, order, table) is None
    usual = gradients(plain(qkv, order, table, num_clusters), grad, qkv)
    wide = qkv.detach().double().requires_grad_()
    exact = gradients(plain(wide, order, table, num_clusters), grad, wide)
    out, lse = attention.forward(qkv.detach(), order, table, num_clusters)
    grad_qkv = attention.backward(grad, qkv.detach(), order, table, out, lse, num_clusters)
    assert grad_qkv.is_contiguous()
    check(out, usual[0], exact[0])
    check(grad_qkv, usual[1], exact[1])
    if num_tokens == num_clusters:  # a token that sees only itself
        assert torch.equal(out, qkv[:, :, 2].flatten(2))


@pytest.mark.parametrize('ordered', ['all', 'image', 'head', 'one', None])
@pytest.mark.parametrize('turned', [True, False])
def test_orders_and_tables(ordered: str | None, turned: bool) -> None:
    batch, num_tokens, heads, width = 2, 50, 2, 32
    num_clusters = 3 if ordered else 1
    qkv = torch.randn(batch, num_tokens, 3, heads, width).half()
    grad = torch.randn(batch, num_tokens, heads * width).half()
    table = angles(num_tokens, width) if turned else None
    order = None
    if ordered:
        own = {'all': (batch, heads), 'image': (batch, 1), 'head': (1, heads), 'one': (1, 1)}[ordered]
        order = orders(*own, num_tokens)
        order = order.expand(batch, heads, -1) if ordered == 'image' else order
    assert attention.serves(qkv, order, table) is None
    wide = qkv.double().requires_grad_()
    exact = gradients(plain(wide, order, table, num_clusters), grad, wide)
    out, lse = attention.forward(qkv, order, table, num_clusters)
    assert error(out, exact[0]) < 1e-3
    assert error(attention.backward(grad, qkv, order, table, None, lse, num_clusters), exact[1]) < 1e-3


@pytest.mark.parametrize('num_tokens', [100, 130])
def test_two_runs_are_equal(num_tokens: int) -> None:
    qkv, order = torch.randn(1, num_tokens, 3, 1, 16).half(), orders(1, 1, num_tokens)
    grad, table = torch.randn(1, num_tokens, 16).half(), angles(num_tokens, 16)
    runs = []
    for _ in range(2):
        out, lse = attention.forward(qkv, order, table, 1)
        runs.append((out, attention.backward(grad, qkv, order, table, out, lse, 1)))
    assert all(map(torch.equal, *runs))


def test_large_logits_stay_finite() -> None:
    qkv = 60 * torch.randn(1, 40, 3, 1, 16).half()
    order, table = orders(1, 1, 40), angles(40, 16)
    out, lse = attention.forward(qkv, order, table, 3)
    assert out.isfinite().all()
    assert attention.backward(torch.ones_like(out), qkv, order, table, out, lse, 3).isfinite().all()


def lepe_plain(
    x: Tensor, heads: int, order: Tensor | None, table: Tensor | None, num_clusters: int, weight: Tensor, bias: Tensor
) -> Tensor:
    """Attention plus a depthwise convolution of the values, in the type of x."""
    qkv = x.flatten(1, 2).unflatten(2, (3, heads, -1))
    values = x.chunk(3, -1)[2].permute(0, 3, 1, 2)
    position = F.conv2d(values, weight.to(x.dtype), bias.to(x.dtype), padding=2, groups=values.shape[1])
    return plain(qkv, order, table, num_clusters).view(*x.shape[:3], -1) + position.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ('num_clusters', 'size', 'dtype'),
    [
        (3, (2, 5, 7), torch.float32),
        (3, (2, 5, 7), torch.float16),
        (1, (1, 10, 13), torch.float16),  # two passes
        (1, (1, 1, 1), torch.float16),
    ],
)
def test_lepe(num_clusters: int, size: tuple[int, int, int], dtype: torch.dtype, launches: list[str]) -> None:
    heads, channels, num_tokens = 2, 32, size[1] * size[2]
    x = torch.randn(*size, 3 * channels + 16).to(dtype)[..., : 3 * channels].requires_grad_()  # strided
    weight = (torch.randn(channels, 1, 5, 5) / 5).requires_grad_()
    bias = torch.randn(channels).requires_grad_()
    grad = torch.randn(*size, channels).to(dtype)
    order = orders(size[0], heads, num_tokens) if num_clusters > 1 else None
    table = angles(num_tokens, channels // heads)
    place = heads, order, table, num_clusters
    assert lepe.serves(x, heads, order, table, num_clusters, weight, bias) is None
    usual = gradients(lepe_plain(x, *place, weight, bias), grad, x, weight, bias)
    wide = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    exact = gradients(lepe_plain(wide[0], *place, *wide[1:]), grad, *wide)
    got = gradients(lepe.lepe_attention(x, *place, weight, bias), grad, x, weight, bias)
    for each in zip(got, usual, exact, strict=True):
        check(*each)
    one = attention.whole(x.flatten(1, 2).unflatten(2, (3, heads, -1)), num_clusters)
    assert len(launches) == 2 + 2 + (1 if one else 2) + 1
    assert got[2].dtype == torch.float32


def test_lepe_computes_only_what_is_wanted(launches: list[str]) -> None:
    x = torch.randn(1, 4, 4, 96).half()
    weight, bias = torch.randn(32, 1, 5, 5), torch.randn(32)
    with torch.no_grad():
        out = lepe.lepe_attention(x, 1, None, None, 1, weight.requires_grad_(), bias)
    assert not out.requires_grad
    assert len(launches) == 2
    launches.clear()
    lepe.lepe_attention(x, 1, None, None, 1, weight, bias).sum().backward()  # of the weight alone
    assert len(launches) == 4
    assert x.grad is None
    assert bias.grad is None
    launches.clear()
    x.requires_grad_()
    lepe.lepe_attention(x, 1, None, None, 1, weight.detach(), bias).sum().backward()
    assert len(launches) == 4
    assert x.grad is not None


def test_refused_tensors() -> None:
    qkv, order, table = torch.zeros(2, 6, 3, 2, 32), torch.zeros(2, 2, 6, dtype=torch.int64), torch.zeros(6, 16, 2)
    assert attention.serves(qkv, order, table) is None
    assert '24' in (attention.serves(qkv[..., :24], order, table) or '')
    assert 'float64' in (attention.serves(qkv.double(), order, table) or '')
    assert '128' in (attention.serves(torch.zeros(2, 6, 3, 2, 128), order, None) or '')  # of float32
    assert attention.serves(torch.zeros(2, 6, 3, 2, 128).half(), order, None) is None
    assert 'strides' in (attention.serves(qkv[:, 1:], order[..., :5], None) or '')
    assert 'order' in (attention.serves(qkv, order.int(), table) or '')
    assert 'table' in (attention.serves(qkv, order, table.double()) or '')
    x = qkv.view(2, 2, 3, 192)
    assert lepe.serves(x, 2, order, table, 1, torch.zeros(64, 1, 5, 5), None) is None
    assert lepe.serves(x, 2, order, table, 1, torch.zeros(64, 1, 7, 7), None) is not None
    assert lepe.serves(x, 2, order.int(), table, 1, torch.zeros(64, 1, 5, 5), None) is not None
