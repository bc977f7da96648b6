"""Every kernel computes what its front says in plain torch, and says why where it does not serve."""

import sys
from contextlib import nullcontext

import pytest
import torch

from mmsec import ops
from mmsec.ops.kernels import Kernel, front, memory
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
RECOMPUTED = 'recomputed in the backward'


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


def test_rows_side_by_side_are_the_rows_of_each():
    kernel = memory.rows_side_by_side(lambda x, index, inverse: x[index])
    index, tensors = torch.randperm(7), [torch.randn(7, 3) for _ in range(3)]
    for x, taken in zip(tensors, kernel.run(index, index.argsort(), *tensors), strict=True):
        assert torch.equal(taken, x[index])
    assert kernel.why_not(index, index, *tensors) == 'putting them side by side takes longer on a CPU'
    assert kernel.why_not(index, index, tensors[0]) == 'there is one tensor'


def test_one_product_is_what_runs_beyond_a_cpu():
    x, weight, bias = (torch.empty(shape, device='meta') for shape in ((2, 3, 4, 8), (24, 8), (24,)))
    explained = ops.explain(ops.linear_chunks, x, weight, bias, 3)['linear_chunks']
    assert explained == {'products apart': 'one product is launched sooner on meta', 'plain torch': 'chosen'}


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


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_gelu_that_is_computed_again_has_the_gradients_of_plain_torch_under_autocast(dtype):
    inputs = [x.to(torch.float32) for x in _inputs('gelu_and_mix')]
    results = []
    for plain in (True, False):
        x, weight, bias = (x.clone().requires_grad_() for x in inputs)
        with torch.autocast('cpu', torch.bfloat16), ops.plain_torch() if plain else nullcontext():
            if not plain:
                assert ops.explain(ops.gelu_and_mix, x, weight, bias)['gelu_and_mix'][RECOMPUTED] == 'chosen'
            out = ops.gelu_and_mix(x.to(dtype), weight, bias)
        results.append([out, *torch.autograd.grad((out.float() * inputs[0]).sum(), (x, weight, bias))])
        assert [each.dtype for each in results[-1]] == [dtype, *[torch.float32] * 3]
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


def test_cudnn_is_left_out_inside_the_call_and_not_after_it(monkeypatch):
    inside = []
    monkeypatch.setattr(
        kernels_sdpa.F,
        'scaled_dot_product_attention',
        lambda *x: inside.append(torch.backends.cuda.cudnn_sdp_enabled()),
    )
    q = torch.zeros(1, 1, 2, 8)
    assert torch.backends.cuda.cudnn_sdp_enabled()
    kernels_sdpa.WITHOUT_CUDNN.run(q, q, q)
    assert inside == [False]
    assert torch.backends.cuda.cudnn_sdp_enabled()
    assert kernels_sdpa.WITHOUT_CUDNN.why_not(q, q, q) == 'not on cpu'


def test_a_compiled_graph_can_leave_cudnn_out():
    torch._dynamo.reset()
    q = torch.randn(2, 1, 7, 8)
    compiled = torch.compile(kernels_sdpa.WITHOUT_CUDNN.run, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(q, q, q), ops.attention(q, q, q))
    assert torch.backends.cuda.cudnn_sdp_enabled()
