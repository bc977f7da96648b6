from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mmsec import compat
from mmsec.ops import cluster_attention, cluster_ids, explain, proportional_attention
from mmsec.ops.attention import row_indices, take_rows
from tests.conftest import semantic


def random_qkv(batch, num_tokens, head_dim=16, dtype=torch.float64):
    shape = (batch, num_tokens, 2, head_dim)
    return [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]


def reference(q, k, v, grouping, protected=0):
    """Attention by the whole matrix: to tokens of one's own cluster, and to and from protected ones."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, h, P+N, d)
    ids = F.pad(cluster_ids(grouping), (protected, 0), value=-1)
    seen = (ids[..., None] == ids[..., None, :]) | (ids[..., None] < 0) | (ids[..., None, :] < 0)
    logits = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
    return (logits.softmax(-1) @ v).transpose(1, 2)


def with_gradients(function, inputs, weights):
    """The output and the gradients of its weighted sum, in float64."""
    out = function(*inputs)
    gradients = torch.autograd.grad((out * weights.to(out.dtype)).sum(), inputs)
    return [x.detach().double() for x in (out, *gradients)]


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('head_dim', [16, 32])
@pytest.mark.parametrize(('num_tokens', 'num_clusters'), [(64, 8), (67, 8), (96, 1), (700, 3)])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_is_as_near_to_the_float64_reference_as_its_precision_allows(batch, head_dim, num_tokens, num_clusters, dtype):
    qkv = random_qkv(batch, num_tokens, head_dim, dtype)
    grouping = semantic(qkv[1], num_clusters)
    weights = torch.randn(qkv[0].shape)
    fast, slow = (partial(each, grouping=grouping) for each in (cluster_attention, reference))
    wanted = with_gradients(slow, [x.detach().double().requires_grad_() for x in qkv], weights)
    plain = with_gradients(slow, qkv, weights)
    with torch.no_grad():  # another kernel may run where nobody wants a gradient
        alone = fast(*qkv).double()
    results = [*zip(with_gradients(fast, qkv, weights), plain, wanted, strict=True), (alone, plain[0], wanted[0])]
    for got, same_precision, exact in results:
        bound = 2 * (same_precision - exact).norm() + 1e-13 * exact.norm()  # the last for float64 itself
        assert (got - exact).norm() <= bound


@pytest.mark.parametrize('protected', [1, 3])
@pytest.mark.parametrize(('num_tokens', 'num_clusters'), [(24, 4), (23, 4), (5, 1)])
def test_protected_tokens_attend_to_all_and_every_cluster_sees_them(protected, num_tokens, num_clusters):
    q, k, v = random_qkv(2, protected + num_tokens)
    options = dict(grouping=semantic(k[:, protected:], num_clusters), protected=protected)
    weights = torch.randn(q.shape)
    ours, wanted = (with_gradients(partial(f, **options), (q, k, v), weights) for f in (cluster_attention, reference))
    torch.testing.assert_close(ours, wanted)


def test_a_key_of_size_three_counts_as_three_equal_keys():
    q, k, v = (x.detach() for x in random_qkv(2, 5))
    sizes = torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0]).expand(2, -1)
    repeated = [x.repeat_interleave(sizes[0].long(), dim=1) for x in (k, v)]
    torch.testing.assert_close(
        proportional_attention(q, k, v, sizes), cluster_attention(q, *repeated, None), atol=1e-6, rtol=0
    )


def test_a_token_alone_in_its_cluster_keeps_its_value():
    q, k, v = random_qkv(2, 5)
    out = cluster_attention(q, k, v, semantic(k, 5))
    torch.testing.assert_close(out, v)
    grad_q, _, grad_v = torch.autograd.grad(out.sum(), (q, k, v))
    torch.testing.assert_close(grad_q, torch.zeros_like(q))
    torch.testing.assert_close(grad_v, torch.ones_like(v))


def test_without_grouping_all_tokens_attend_to_all():
    q, k, v = random_qkv(2, 10)
    torch.testing.assert_close(cluster_attention(q, k, v, None), reference(q, k, v, semantic(k, 1)))


@pytest.mark.parametrize('compiling', [False, True])
@pytest.mark.parametrize(('num_tokens', 'num_clusters'), [(41, 4), (40, 4), (3, 3)])
def test_rows_of_a_grouping_are_its_clusters_one_after_the_other(num_tokens, num_clusters, compiling, monkeypatch):
    k = torch.randn(2, num_tokens, 3, 8)
    grouping = semantic(k, num_clusters)
    with monkeypatch.context() as patch:  # torch.compile takes another way to the same rows
        patch.setattr(compat, 'is_compiling', lambda: compiling)
        index, inverse = row_indices(grouping)
    ids = torch.arange(2 * num_tokens * 3).view(2, num_tokens, 3)
    long = num_tokens % num_clusters
    length = num_tokens // num_clusters
    longest = length + (long > 0)
    first = long or (1 if compiling else num_clusters)  # clusters of the first kind
    wanted = [
        ids[b, order, h]
        for count, size, start in ((first, longest, 0), (num_clusters - first, length, first * longest))
        for b in range(2)
        for h in range(3)
        for order in grouping.order[b, h, start : start + count * size].split(size)
        if count
    ]
    assert torch.equal(index, torch.cat(wanted))
    assert torch.equal(index[inverse], torch.arange(index.numel()))


def test_taking_rows_there_and_back_restores_every_bit_and_the_gradient_never_adds():
    x = torch.randn(2 * 41 * 3, 8, dtype=torch.float64, requires_grad=True)
    index, inverse = row_indices(semantic(torch.randn(2, 41, 3, 8), 4))
    (moved,) = take_rows(index, inverse, x)
    assert torch.equal(moved[5], x[index[5]])
    assert torch.equal(take_rows(inverse, index, moved)[0], x)
    assert 'TakeRows' in type(moved.grad_fn).__name__  # not IndexSelectBackward, which scatters and adds
    grad = torch.randn_like(x)
    assert torch.equal(torch.autograd.grad(moved, x, grad)[0], grad[inverse])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_equal_or_zero_tokens_give_numbers(dtype):
    for q, k, v in ([torch.zeros(1, 50, 2, 16, dtype=dtype)] * 3, [torch.full((1, 50, 2, 16), 3.0, dtype=dtype)] * 3):
        out = cluster_attention(q, k, v, semantic(k, 7))
        torch.testing.assert_close(out, v)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_one_can_ask_which_kernel_runs_and_why_not_the_others(dtype):
    q, k, v = random_qkv(1, 64, 32, dtype)
    kernels = explain(cluster_attention, q, k, v, None)['attention']
    chosen = [name for name, said in kernels.items() if said == 'chosen']
    assert chosen == ['plain torch', 'plain torch: flash_attention']
    assert kernels['plain torch: efficient_attention'] == f'cannot run on cpu tensors of {dtype}'
    assert kernels['without cuDNN'] == (
        'not on cpu' if compat.CUDNN_ATTENTION else 'this torch has no attention of cuDNN'
    )


def test_attention_where_keys_count_takes_the_same_way():
    q, k, v = (x.detach() for x in random_qkv(1, 6))
    sizes = torch.ones(1, 6)
    found = explain(proportional_attention, q, k, v, sizes)['attention']
    assert found.keys() == explain(cluster_attention, q, k, v, None)['attention'].keys()
    torch.testing.assert_close(proportional_attention(q, k, v, sizes), cluster_attention(q, k, v, None))
