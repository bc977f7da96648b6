import pytest
import torch

from mmsec.ops import cluster_attention, cluster_sizes, permute_tokens, semantic_grouping


def attend_one_by_one(q, k, v, grouping):
    """Attention cluster by cluster, as the paper writes it."""
    out = torch.empty_like(v)
    num_long, num_short, length = cluster_sizes(q.shape[2], grouping.num_clusters)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            runs = grouping.order[b, h].split([length + 1] * num_long + [length] * num_short)
            for tokens in runs:
                weights = (q[b, h, tokens] @ k[b, h, tokens].T * q.shape[-1] ** -0.5).softmax(-1)
                out[b, h, tokens] = weights @ v[b, h, tokens]
    return out


def random_qkv(batch, num_tokens, head_dim=16):
    shape = (batch, 2, num_tokens, head_dim)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('head_dim', [16, 32])
@pytest.mark.parametrize(('num_tokens', 'num_clusters'), [(64, 8), (67, 8), (5, 5), (1, 1), (7, 4)])
def test_equals_attention_cluster_by_cluster_with_gradients(batch, head_dim, num_tokens, num_clusters):
    q, k, v = random_qkv(batch, num_tokens, head_dim)
    grouping = semantic_grouping(k, num_clusters)
    weights = torch.randn(q.shape, dtype=q.dtype)
    out, expected = cluster_attention(q, k, v, grouping), attend_one_by_one(q, k, v, grouping)
    torch.testing.assert_close(out, expected)
    gradients = torch.autograd.grad((out * weights).sum(), (q, k, v))
    wanted = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    torch.testing.assert_close(gradients, wanted)


def test_without_grouping_all_tokens_attend_to_all():
    q, k, v = random_qkv(2, 10)
    expected = (q @ k.transpose(-1, -2) * 16**-0.5).softmax(-1) @ v
    torch.testing.assert_close(cluster_attention(q, k, v, None), expected)


def test_permuting_there_and_back_restores_every_bit():
    x = torch.randn(2, 3, 41, 8)
    order, inverse, _ = semantic_grouping(torch.randn(2, 3, 41, 8), 4)
    moved = permute_tokens(x, order, inverse)
    assert torch.equal(moved[1, 2, 5], x[1, 2, order[1, 2, 5]])
    assert torch.equal(permute_tokens(moved, inverse, order), x)


def test_permuting_has_the_right_gradient():
    x = torch.randn(1, 2, 7, 3, dtype=torch.float64, requires_grad=True)
    order, inverse, _ = semantic_grouping(torch.randn(1, 2, 7, 4), 2)
    assert torch.autograd.gradcheck(lambda y: permute_tokens(y, order, inverse), x)
