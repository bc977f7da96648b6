"""Every kernel computes what its front says in plain torch, and says why where it does not serve."""

import sys

import pytest
import torch

from mmsec import ops
from mmsec.ops.kernels import Kernel, front
from mmsec.ops.kernels import sdpa as kernels_sdpa


def test_a_front_takes_the_first_kernel_that_has_nothing_against_it():
    odd = Kernel('odd', lambda x: 'x is even' if x % 2 == 0 else None, lambda x: ('odd', x))
    three = Kernel('three', lambda x: None if x % 3 == 0 else 'not three', lambda x: ('three', x))

    @front(odd, three)
    def number(x):
        return 'plain', x

    assert [number(x)[0] for x in (1, 2, 3, 6)] == ['odd', 'plain', 'odd', 'three']
    with ops.plain_torch():
        assert number(3) == ('plain', 3)
    assert number(3) == ('odd', 3)


def test_one_can_ask_what_runs_and_why_not_the_others():
    odd = Kernel('odd', lambda x: 'x is even' if x % 2 == 0 else None, lambda x: x)

    @front(odd, details=lambda x: {'inside': f'about {x}'})
    def number(x):
        return x

    assert ops.explain(number, 2) == {
        'number': {'odd': 'x is even', 'plain torch': 'chosen', 'plain torch: inside': 'about 2'}
    }
    assert ops.explain(number, 1) == {'number': {'odd': 'chosen', 'plain torch': 'could run; odd is preferred'}}
    both = ops.explain(lambda: [number(x) for x in (1, 3, 2)])['number']
    assert both['odd, 2 calls'] == 'chosen'
    assert both['odd, 1 calls'] == 'x is even'


def test_what_is_exported_is_plain_torch(monkeypatch):
    kernel = Kernel('kernel', lambda x: None, lambda x: x + 1)

    @front(kernel)
    def number(x):
        return x

    assert number(1) == 2
    monkeypatch.setattr(torch.compiler, 'is_exporting', lambda: True)
    assert number(1) == 1


MAP = (2, 5, 6, 8)


def _inputs(name: str) -> tuple:
    """Arguments of a front, in float64, the tensors among them with gradients."""
    x = torch.randn(MAP, dtype=torch.float64)
    vector = torch.randn(8, dtype=torch.float64)
    if name == 'linear':
        return x, torch.randn(12, 8, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    if name == 'linear_chunks':
        return x, torch.randn(24, 8, dtype=torch.float64), torch.randn(24, dtype=torch.float64), 3
    if name == 'add':
        return x, torch.randn(MAP, dtype=torch.float64)
    if name == 'gelu_and_mix':
        return x, torch.randn(8, 1, 3, 3, dtype=torch.float64), vector
    if name == 'conv2d':
        return x, torch.randn(8, 1, 5, 5, dtype=torch.float64), vector, 1, 2, 8, torch.randn_like(x)
    if name == 'apply_rotary':
        return x.flatten(1, 2).unflatten(-1, (2, 4)), ops.rotary_table(5, 6, 4, x.dtype, x.device)
    return tuple(torch.randn(3, 2, 7, 8, dtype=torch.float64) for _ in range(3))  # attention


FRONTS = ['add', 'apply_rotary', 'attention', 'conv2d', 'gelu_and_mix', 'linear', 'linear_chunks']


@pytest.mark.parametrize('name', FRONTS)
def test_kernels_agree_with_plain_torch_without_a_gradient(name):
    inputs = _inputs(name)
    copies = [x.clone() if isinstance(x, torch.Tensor) else x for x in inputs]
    with torch.no_grad():
        with ops.plain_torch():
            wanted = getattr(ops, name)(*inputs)
        got = getattr(ops, name)(*copies)
    torch.testing.assert_close(got, wanted)


# What needs a gradient decides which kernel runs: a frozen layer's weights do not.
@pytest.mark.parametrize('frozen', [(), (0,), (1,), (0, 1), (1, 2)])
@pytest.mark.parametrize('name', FRONTS)
def test_kernels_agree_with_plain_torch_gradients_included(name, frozen):
    inputs = _inputs(name)
    results = []
    for plain in (True, False):
        torch.manual_seed(1)
        own = [x.clone() if isinstance(x, torch.Tensor) else x for x in inputs]
        learnt = [x for i, x in enumerate(own) if isinstance(x, torch.Tensor) and i not in frozen]
        if not learnt:
            return  # nothing is left that could have a gradient
        for x in learnt:
            x.requires_grad_()
        # An input that a layer before it made, as in a model: only such memory may be used again.
        given = [x * 1 if isinstance(x, torch.Tensor) and name in ('add', 'gelu_and_mix') else x for x in own]
        if plain:
            with ops.plain_torch():
                out = getattr(ops, name)(*given)
        else:
            out = getattr(ops, name)(*given)
        parts = out if isinstance(out, tuple) else (out,)
        loss = sum((part * torch.randn_like(part)).sum() for part in parts)
        results.append([*parts, *torch.autograd.grad(loss, learnt)])
    torch.testing.assert_close(results[1], results[0])


def test_no_more_clusters_at_a_time_than_a_grid_takes(monkeypatch):
    """Fourteen images of 800x1344, seven heads and clusters of 98 tokens are more than 65535 clusters."""
    shapes = []

    def record(q, k, v):
        shapes.append(q.shape)
        return v

    monkeypatch.setattr(sys.modules['mmsec.ops.attention'], 'attention', record)  # the package has its name too
    lists, num_tokens = 14 * 7, 700  # as many clusters a list as there, of one token each
    q = torch.randn(14, num_tokens, 7, 4)
    grouping = ops.build_grouping(dict(type='SemanticGrouping'))(ops.Tokens(q, q, q, q, (20, 35)), num_tokens)
    assert torch.equal(ops.cluster_attention(q, q, q, grouping), q)
    assert shapes == [(65535, 1, 1, 4), (lists * num_tokens - 65535, 1, 1, 4)]


def test_flash_attention_is_asked_for_before_cudnn(monkeypatch):
    """The order holds inside the call and not after it."""
    before = torch._C._get_sdp_priority_order()
    inside = []
    monkeypatch.setattr(
        kernels_sdpa.F, 'scaled_dot_product_attention', lambda *x: inside.append(torch._C._get_sdp_priority_order())
    )
    q = torch.zeros(1, 1, 2, 8)
    kernels_sdpa.FLASH_FIRST.run(q, q, q)
    (order,) = inside
    flash, cudnn = (int(getattr(torch.nn.attention.SDPBackend, f'{name}_ATTENTION')) for name in ('FLASH', 'CUDNN'))
    assert order.index(flash) < order.index(cudnn)
    assert torch._C._get_sdp_priority_order() == before
    assert kernels_sdpa.FLASH_FIRST.why_not(q, q, q) == 'not on cpu'
