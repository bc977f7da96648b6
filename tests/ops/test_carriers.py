import pytest
import torch

from mmsec.ops import Grouping, carrier_attention, explain
from mmsec.ops.carriers import carriers_of
from tests.conftest import semantic


def random_qkv(batch: int, num_tokens: int) -> torch.Tensor:
    return torch.randn(batch, num_tokens, 3, 2, 8, dtype=torch.float64, requires_grad=True)


def parts(tokens: list, count: int) -> list[list]:
    """A list in parts, equal to within one, the longer ones first."""
    length, longer = divmod(len(tokens), count)
    return [[tokens.pop(0) for _ in range(length + (i < longer))] for i in range(count)]


def reference(qkv, grouping, carriers, gamma):
    """Tokens and carriers of one image and head at a time, every mean a loop over its tokens."""
    batch, num_tokens, _, heads, width = qkv.shape
    order, num_clusters = grouping or Grouping(torch.arange(num_tokens)[None, None], 1)
    order, carriers = order.expand(batch, heads, -1), min(carriers, num_tokens // num_clusters)
    out = torch.empty_like(qkv[:, :, 0])
    for b in range(batch):
        for h in range(heads):
            tokens = qkv[b, :, :, h]  # (N, 3, d)
            members = [each for c in parts(order[b, h].tolist(), num_clusters) for each in parts(c, carriers)]
            q, k, v = torch.stack([tokens[each].mean(0) for each in members]).unbind(1)
            v = v + gamma[h] * (q @ k.T / width**0.5).softmax(-1) @ v
            out[b, :, h] = (tokens[:, 0] @ k.T / width**0.5).softmax(-1) @ v
    return out


@pytest.mark.parametrize('carriers', [1, 2, 3, 50])
@pytest.mark.parametrize(('num_tokens', 'num_clusters'), [(24, 4), (23, 4), (40, 7), (7, 7), (5, 1), (1, 1), (9, None)])
def test_equals_loops_over_tokens_with_gradients(num_tokens, num_clusters, carriers):
    qkv, gamma = random_qkv(2, num_tokens), torch.randn(2, dtype=torch.float64, requires_grad=True)
    grouping = semantic(qkv[:, :, 1], num_clusters) if num_clusters else None
    ours, wanted = (each(qkv, grouping, carriers, gamma) for each in (carrier_attention, reference))
    torch.testing.assert_close(ours, wanted)
    weights = torch.randn(ours.shape, dtype=torch.float64)
    found, sought = (torch.autograd.grad((each * weights).sum(), (qkv, gamma)) for each in (ours, wanted))
    torch.testing.assert_close(found, sought)


def test_one_order_serves_all_images_and_heads():
    qkv, order = random_qkv(2, 11), torch.randperm(11)
    grouping = Grouping(order[None, None], 3)
    expanded = Grouping(order.expand(2, 2, -1), 3)
    assert torch.equal(*(carriers_of(qkv, each, 2) for each in (grouping, expanded)))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('value', [30.0, 1e-4])  # a sum beyond float16, and shares below it
def test_means_of_many_equal_tokens_are_these_in_half_precision(dtype, value):
    qkv = torch.full((1, 6000, 3, 1, 4), value, dtype=dtype)
    found = carriers_of(qkv, Grouping(torch.arange(6000)[None, None], 2), 1)
    torch.testing.assert_close(found, torch.full_like(found, value), rtol=2**-8, atol=0)


def test_kernels_take_its_attention_as_any_other():
    kernels = explain(carrier_attention, random_qkv(1, 12), None, 2, torch.zeros(2, dtype=torch.float64))
    assert [*kernels] == ['attention']
