import pytest
import torch

from mmsec.ops.merging import Links, Merging


def hard(batch=3, num_tokens=17, num_merged=6):
    """Every merged token has a source; which tokens share one is random."""
    extra = torch.randint(num_merged, (batch, num_tokens - num_merged))
    assignment = torch.cat([torch.arange(num_merged).expand(batch, -1), extra], dim=1)
    shuffle = torch.rand(batch, num_tokens).argsort(-1)
    return Merging.from_assignment(assignment.gather(1, shuffle), num_merged)


def soft(batch=3, num_tokens=17, num_merged=6, shares=4, rebuild=3):
    def links(count):
        index = torch.rand(batch, num_tokens, num_merged).argsort(-1)[..., :count]
        return Links(index, num_merged, torch.rand(batch, num_tokens, count, dtype=torch.float64).softmax(-1))

    return Merging(links(shares), links(rebuild))


def dense(links):
    """(B, N, T') matrix of the links."""
    weights = torch.ones(links.index.shape) if links.weights is None else links.weights
    one_hot = torch.nn.functional.one_hot(links.index, links.num_merged)
    return (one_hot * weights.double()[..., None]).sum(-2)


MAKERS = pytest.mark.parametrize('make', [hard, soft])


@MAKERS
def test_merge_is_the_mean_of_the_sources_and_unmerge_rebuilds_each_token(make):
    merging = make()
    x, y = torch.randn(3, 17, 5).double(), torch.randn(3, 6, 5).double()
    matrix = dense(merging.shares)
    torch.testing.assert_close(merging.sum(x), matrix.mT @ x)
    torch.testing.assert_close(merging.sizes.double(), matrix.sum(1))
    torch.testing.assert_close(merging.merge(x), matrix.mT @ x / matrix.sum(1)[..., None])
    torch.testing.assert_close(merging.unmerge(y), dense(merging.rebuild or merging.shares) @ y)
    weights = torch.rand(3, 17).double()
    matrix = matrix * weights[..., None]
    torch.testing.assert_close(merging.merge(x, weights), matrix.mT @ x / matrix.sum(1)[..., None])


def test_a_shared_token_is_assigned_where_it_has_most_weight():
    merging = soft()
    assert torch.equal(merging.assignment, dense(merging.rebuild).argmax(-1))


@MAKERS
def test_gradients_are_those_of_the_matrix(make):
    merging = make()
    x = torch.randn(3, 17, 2).double().requires_grad_()
    y = torch.randn(3, 6, 2).double().requires_grad_()
    weights = (torch.rand(3, 17).double() + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(merging.merge, (x, weights))
    assert torch.autograd.gradcheck(merging.merge, (x,))
    assert torch.autograd.gradcheck(merging.unmerge, (y,))
    assert torch.autograd.gradgradcheck(merging.merge, (x, weights))


@MAKERS
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_half_types_are_summed_in_float32(make, dtype):
    merging = make()
    x = (20000 * (1 + torch.rand(3, 17, 5))).to(dtype)  # sums of a few do not fit float16
    y = (1 + torch.rand(3, 6, 5)).to(dtype)
    assert merging.sum(x).dtype == torch.float32
    assert merging.sum(x).max() > torch.finfo(torch.float16).max
    for got, wanted in [
        (merging.merge(x), merging.merge(x.double())),
        (merging.merge(x, torch.full((3, 17), 3.0).to(dtype)), merging.merge(x.double())),
        (merging.unmerge(y), merging.unmerge(y.double())),
    ]:
        assert got.dtype == dtype
        assert got.isfinite().all()
        torch.testing.assert_close(got, wanted.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(('first', 'second'), [(hard, hard), (soft, hard), (hard, soft), (soft, soft)])
def test_two_mergings_compose_into_one(first, second):
    counts = dict(shares=2, rebuild=2) if second is soft else {}
    first, second = first(), second(num_tokens=6, num_merged=3, **counts)
    both = first.then(second)
    x, y = torch.randn(3, 17, 5).double(), torch.randn(3, 3, 5).double()
    assert (both.num_tokens, both.num_merged) == (17, 3)
    torch.testing.assert_close(both.unmerge(y), first.unmerge(second.unmerge(y)))
    torch.testing.assert_close(both.merge(x), second.merge(first.merge(x), first.sizes))
    torch.testing.assert_close(both.sizes.double(), second.sum(first.sizes.double()[..., None])[..., 0])


def test_mergings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match='a merging into 6 tokens cannot go before one of 5 tokens'):
        hard().then(hard(num_tokens=5, num_merged=2))


def test_a_merged_token_without_sources_is_zero():
    merging = Merging.from_assignment(torch.tensor([[2, 0, 2]]), 4)
    x = torch.ones(1, 3, 2, requires_grad=True)
    merged = merging.merge(x)
    assert merged[0, :, 0].tolist() == [1, 0, 1, 0]
    assert merging.sizes.tolist() == [[1, 0, 2, 0]]
    merged.sum().backward()
    assert x.grad[0, :, 0].tolist() == [0.5, 1, 0.5]
    assert torch.equal(merging.merge(x, torch.zeros(1, 3)), torch.zeros(1, 4, 2))
