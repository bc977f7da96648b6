"""A fused op and the kernels before it: which runs, why not the others, and that each computes the same."""

import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from mmsec import compat, ops
from mmsec.ops.attention import take_rows
from mmsec.ops.kernels import Kernel, KernelError, backwards, conditions, dispatch, fused_op
from mmsec.ops.kernels import sdpa as kernels_sdpa
from tests.conftest import build_grouping, tokens_of


def test_a_fused_op_takes_the_first_kernel_that_has_nothing_against_it():
    odd = Kernel('odd', lambda x: 'x is even' if x % 2 == 0 else None, lambda x: ('odd', x))
    three = Kernel('three', lambda x: None if x % 3 == 0 else 'not three', lambda x: ('three', x))

    @fused_op(odd, three)
    def number(x):
        return 'plain', x

    assert [number(x)[0] for x in (1, 2, 3, 6)] == ['odd', 'plain', 'odd', 'three']
    with ops.plain_torch():
        assert number(3) == ('plain', 3)
    assert number(3) == ('odd', 3)


def test_a_kernel_that_fails_is_left_out_and_said_so_once():
    calls = []

    def run(x):
        calls.append(x)
        raise KernelError('no C compiler')

    @fused_op(Kernel('broken', lambda x: None, run))
    def number(x):
        return x

    with dispatch.forgetting_failures():
        with pytest.warns(UserWarning, match="the kernel 'broken' failed, plain torch takes its place: no C compiler"):
            assert number(1) == 1
        assert number(2) == 2
        assert calls == [1]
        assert ops.explain(number, 3)['number']['broken'] == 'failed on this machine: no C compiler'


def test_only_kernels_that_say_so_serve_under_a_trace_and_in_torch_func_and_none_is_exported(monkeypatch):
    seen = []

    @fused_op(Kernel('eager', lambda x: None, lambda x: seen.append('eager') or x * 2))
    def twice(x):
        seen.append('plain')
        return x * 2

    x = torch.ones(())
    twice(x)
    torch.func.grad(twice)(x)
    torch.jit.trace(twice, x, check_trace=False)
    with torch.autograd.forward_ad.dual_level():
        twice(torch.autograd.forward_ad.make_dual(x, x))
    assert seen == ['eager', 'plain', 'plain', 'plain']
    monkeypatch.setattr(compat, 'is_exporting', lambda: True)
    twice(x)
    assert seen[4:] == ['plain']


def test_one_can_ask_what_runs_and_why_not_the_others():
    odd = Kernel('odd', lambda x: 'x is even' if x % 2 == 0 else None, lambda x: x)

    @fused_op(odd, details=lambda x: {'inside': f'about {x}'})
    def number(x):
        return x

    assert ops.explain(number, 2) == {
        'number': {'odd': 'x is even', 'plain torch': 'chosen', 'plain torch: inside': 'about 2'}
    }
    assert ops.explain(number, 1) == {'number': {'odd': 'chosen', 'plain torch': 'could run; odd is preferred'}}
    both = ops.explain(lambda: [number(x) for x in (1, 3, 2)])['number']
    assert both['odd, 2 calls'] == 'chosen'
    assert both['odd, 1 calls'] == 'x is even'


def layer() -> nn.Conv2d:
    """A depthwise convolution in float64."""
    return nn.Conv2d(8, 8, 5, padding=2, groups=8).double()


def _fused(name: str) -> tuple:
    """A fused op and arguments for it, in float64."""
    x = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    if name == 'gelu_conv_residual':
        return ops.gelu_conv_residual, (x, layer())
    if name == 'apply_rotary':
        heads = x.flatten(1, 2).unflatten(-1, (2, 4))
        return ops.apply_rotary, (heads, ops.rotary_table(5, 6, 4, x.dtype, x.device))
    rows = torch.randn(30, 4, dtype=torch.float64)
    index = torch.randperm(30)
    return lambda *rows: torch.cat(take_rows(index, index.argsort(), *rows)), (rows, rows * 2)


def _results(name: str, op, args: tuple, frozen: bool) -> list[torch.Tensor]:
    """The output, and the gradients of inputs and layers."""
    tensors = [x.detach().clone() for x in args if isinstance(x, torch.Tensor)]
    learnt = [x.requires_grad_() for x in tensors if x.is_floating_point() and not frozen and name != 'apply_rotary']
    learnt += [p for x in args if isinstance(x, nn.Module) for p in x.parameters()]
    given = iter(tensors)
    out = op(*(next(given) if isinstance(x, torch.Tensor) else x for x in args))
    if not learnt:
        return [out]
    return [out.detach(), *torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), learnt)]


# What needs a gradient decides which kernel runs.
@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize(
    ('name', 'chosen'),
    [
        ('gelu_conv_residual', 'recomputed in the backward'),
        ('apply_rotary', 'complex product'),
        ('take_rows', 'gradient by the inverse'),
    ],
)
def test_a_kernel_is_chosen_and_agrees_with_plain_torch_gradients_included(name, chosen, frozen):
    op, args = _fused(name)
    with ops.plain_torch():
        wanted = _results(name, op, args, frozen)
    torch.testing.assert_close(_results(name, op, args, frozen), wanted)
    given = [x.requires_grad_() if isinstance(x, torch.Tensor) and name == 'take_rows' else x for x in args]
    assert ops.explain(op, *given)[name][chosen] == 'chosen'


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_gelu_that_is_computed_again_has_the_gradients_of_plain_torch_under_autocast(dtype):
    x, conv = torch.randn(2, 5, 6, 8), nn.Conv2d(8, 8, 3, padding=1, groups=8)
    results = []
    for context in (ops.plain_torch(), nullcontext()):
        own = x.clone().requires_grad_()
        with torch.autocast('cpu', torch.bfloat16), context:
            out = ops.gelu_conv_residual(own.to(dtype), conv)
        results.append([out, *torch.autograd.grad((out.float() * x).sum(), (own, *conv.parameters()))])
        assert [each.dtype for each in results[-1]] == [dtype, *[torch.float32] * 3]
    torch.testing.assert_close(results[1], results[0])


def test_rows_side_by_side_are_the_rows_of_each():
    kernel = backwards.ROWS_SIDE_BY_SIDE
    index, tensors = torch.randperm(7), [torch.randn(7, 3) for _ in range(3)]
    for x, taken in zip(tensors, kernel.run(index, index.argsort(), *tensors), strict=True):
        assert torch.equal(taken, x[index])
    assert kernel.why_not(index, index, *tensors) == 'not on cpu'
    assert kernel.why_not(index, index, tensors[0]) == 'there is one tensor'
    assert ops.explain(take_rows, index, index.argsort(), *tensors)['take_rows'][kernel.name] == 'not on cpu'


def test_a_layer_is_only_read_where_calling_it_would_do_no_more():
    conv = nn.Conv2d(3, 3, 1)
    assert conditions.why_call(conv, nn.Conv2d) is None
    assert conditions.why_call(nn.Sequential(conv), nn.Conv2d) == 'Sequential stands in the place of Conv2d'
    handle = conv.register_forward_hook(lambda *_: None)
    assert conditions.why_call(conv, nn.Conv2d) == 'a hook looks at Conv2d'
    handle.remove()
    handle = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: None)
    assert conditions.why_call(conv, nn.Conv2d) == 'a hook looks at Conv2d'
    handle.remove()
    conv.forward = lambda x: x
    assert conditions.why_call(conv, nn.Conv2d) == 'the forward of Conv2d was replaced'


def test_no_more_clusters_at_a_time_than_a_grid_takes(monkeypatch):
    """Fourteen images of 800x1344, seven heads and clusters of 98 tokens are more than 65535 clusters."""
    shapes = []

    def record(q, k, v):
        shapes.append(q.shape)
        return v

    monkeypatch.setattr(sys.modules['mmsec.ops.attention'], 'attention', record)  # the package has its name too
    lists, num_tokens = 14 * 7, 700  # as many clusters a list as there, of one token each
    q = torch.randn(14, num_tokens, 7, 4)
    grouping = build_grouping(dict(type='SemanticGrouping'))(tokens_of(q, (20, 35)), num_tokens)
    assert torch.equal(ops.cluster_attention(q, q, q, grouping), q)
    assert shapes == [(65535, 1, 1, 4), (lists * num_tokens - 65535, 1, 1, 4)]


@pytest.mark.skipif(not compat.CUDNN_ATTENTION, reason=f'torch {torch.__version__} has no attention of cuDNN')
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
