import pytest
import torch

from mmsec.ops import Grouping, build_grouping, cluster_ids, cluster_sizes
from mmsec.ops.grouping import GROUPINGS, grouping_from_order
from tests.conftest import tokens_of


@pytest.mark.parametrize('num_tokens', [1, 2, 7, 49, 98, 100, 1749])
@pytest.mark.parametrize('num_clusters', [1, 2, 3, 8, 32])
def test_sizes_cover_every_token_and_differ_by_at_most_one(num_tokens, num_clusters):
    num_clusters = min(num_clusters, num_tokens)
    num_long, num_short, length = cluster_sizes(num_tokens, num_clusters)
    sizes = [length + 1] * num_long + [length] * num_short
    assert sum(sizes) == num_tokens
    assert len(sizes) == num_clusters
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@pytest.mark.parametrize('num_clusters', [0, -1, 6])
def test_sizes_refuse_a_count_that_does_not_fit(num_clusters):
    with pytest.raises(ValueError, match=rf'num_clusters must be in \[1, 5\] for 5 tokens, got {num_clusters}'):
        cluster_sizes(5, num_clusters)


@pytest.mark.parametrize(('num_tokens', 'num_clusters'), [(41, 4), (40, 4), (3, 3), (5, 1)])
def test_ids_cut_the_sorted_list_into_the_cluster_sizes(num_tokens, num_clusters):
    grouping = grouping_from_order(torch.rand(2, 3, num_tokens).argsort(-1), num_clusters)
    num_long, num_short, length = cluster_sizes(num_tokens, num_clusters)
    sizes = torch.tensor([length + 1] * num_long + [length] * num_short)
    wanted = torch.arange(num_clusters).repeat_interleave(sizes).expand(2, 3, -1)
    assert torch.equal(cluster_ids(grouping).gather(-1, grouping.order), wanted)


@pytest.mark.parametrize('name', sorted(GROUPINGS))
@pytest.mark.parametrize(('size', 'num_clusters'), [((8, 8), 4), ((7, 9), 5), ((1, 13), 3), ((20, 3), 7), ((4, 4), 16)])
def test_every_grouping_is_a_permutation_its_inverse_and_equal_sizes(name, size, num_clusters):
    num_tokens = size[0] * size[1]
    method = build_grouping(dict(type=name))
    for training in (True, False):
        order, inverse, count = grouping = method.train(training)(
            tokens_of(torch.randn(2, num_tokens, 3, 8), size), num_clusters
        )
        assert count == num_clusters
        assert order.shape in ((2, 3, num_tokens), (1, 1, num_tokens))
        assert order.dtype == inverse.dtype == torch.int64
        raster = torch.arange(num_tokens).expand_as(order)
        assert torch.equal(order.gather(-1, inverse), raster)
        assert torch.equal(inverse.gather(-1, order), raster)
        num_long, num_short, length = cluster_sizes(num_tokens, num_clusters)
        for ids in cluster_ids(grouping).flatten(0, 1):
            assert ids.bincount(minlength=num_clusters).tolist() == [length + 1] * num_long + [length] * num_short


@pytest.mark.parametrize('name', sorted(GROUPINGS))
def test_no_gradient_flows_through_a_grouping(name):
    method = build_grouping(dict(type=name))
    tokens = tokens_of(torch.randn(1, 12, 2, 8, requires_grad=True), (3, 4))
    assert not any(x.requires_grad for x in method(tokens, 3)[:2])
    assert method.scores(tokens) is None or not method.scores(tokens).requires_grad
    assert list(method.state_dict()) == []


@pytest.mark.parametrize('name', sorted(GROUPINGS))
def test_scores_are_what_tokens_stand_in_ascending_order_of(name):
    method = build_grouping(dict(type=name)).eval()
    tokens = tokens_of(torch.randn(2, 53, 3, 8), (53, 1))
    scores = method.scores(tokens)
    if scores is None:
        assert not method.score_name
        return
    assert method.score_name
    order = method(tokens, 1).order
    assert (scores.gather(-1, order).diff() >= 0).all()


def test_a_grouping_of_an_order_has_its_inverse():
    order = torch.tensor([[[2, 0, 1]]])
    found = grouping_from_order(order, 2)
    assert isinstance(found, Grouping)
    assert [found.order.tolist(), found.inverse.tolist(), found.num_clusters] == [[[[2, 0, 1]]], [[[1, 2, 0]]], 2]


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='SemanticGruping'), "one of .*SemanticGrouping.*, got 'SemanticGruping'"),
        (dict(), 'grouping must have a type, .* got None'),
        (dict(type='WindowGrouping', shfit=True), "grouping WindowGrouping has no option 'shfit'"),
    ],
)
def test_a_misspelt_type_or_option_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        build_grouping(config)


def test_a_grouping_knows_the_place_of_its_block():
    assert build_grouping(dict(type='WindowGrouping'), 3).block == 3
