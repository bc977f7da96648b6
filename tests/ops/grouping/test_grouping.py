import pytest
import torch

from mmsec.ops import Grouping, Tokens, cluster_ids, cluster_sizes
from tests.conftest import build_grouping, each_grouping, tokens_of


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
    grouping = Grouping(torch.rand(2, 3, num_tokens).argsort(-1), num_clusters)
    num_long, num_short, length = cluster_sizes(num_tokens, num_clusters)
    sizes = torch.tensor([length + 1] * num_long + [length] * num_short)
    wanted = torch.arange(num_clusters).repeat_interleave(sizes).expand(2, 3, -1)
    assert torch.equal(cluster_ids(grouping).gather(-1, grouping.order), wanted)


@each_grouping
@pytest.mark.parametrize(
    ('size', 'num_clusters'),
    [((8, 8), 4), ((7, 9), 5), ((1, 13), 3), ((20, 3), 7), ((4, 4), 16), ((1, 1), 1), ((9, 9), 70), ((9, 11), 99)],
)
def test_every_grouping_is_a_permutation_its_inverse_and_equal_sizes(grouping, size, num_clusters):
    num_tokens = size[0] * size[1]
    method = build_grouping(grouping, block=1)
    for training in (True, False):
        found = method.train(training)(tokens_of(torch.randn(2, num_tokens, 3, 8), size), num_clusters)
        order, inverse = found.order, found.inverse
        assert found.num_clusters == num_clusters
        assert order.shape in ((2, 3, num_tokens), (1, 1, num_tokens))
        assert order.dtype == inverse.dtype == torch.int64
        raster = torch.arange(num_tokens).expand_as(order)
        assert torch.equal(order.gather(-1, inverse), raster)
        assert torch.equal(inverse.gather(-1, order), raster)
        num_long, num_short, length = cluster_sizes(num_tokens, num_clusters)
        for ids in cluster_ids(found).flatten(0, 1):
            assert ids.bincount(minlength=num_clusters).tolist() == [length + 1] * num_long + [length] * num_short


@each_grouping
def test_no_gradient_flows_through_a_grouping(grouping):
    method = build_grouping(grouping)
    tokens = tokens_of(torch.randn(1, 12, 2, 8, requires_grad=True), (3, 4))
    assert not method(tokens, 3).order.requires_grad
    assert method.scores(tokens) is None or not method.scores(tokens).requires_grad
    assert list(method.state_dict()) == []


@each_grouping
def test_scores_are_what_tokens_stand_in_ascending_order_of(grouping):
    method = build_grouping(grouping).eval()
    tokens = tokens_of(torch.randn(2, 53, 3, 8), (53, 1))
    scores = method.scores(tokens)
    if scores is None:
        assert not method.score_name
        return
    assert method.score_name
    order = method(tokens, 1).order
    assert (scores.gather(-1, order).diff() >= 0).all()


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='SemanticGruping'), "one of .*SemanticGrouping.*, got 'SemanticGruping'"),
        (dict(), 'type of grouping must be .* got None'),
        (dict(type='WindowGrouping', shfit=True), "grouping WindowGrouping has no option 'shfit'"),
        (dict(type='RandomGrouping', seed=0), "grouping RandomGrouping has no option 'seed'; it takes no options"),
        (dict(type='ProjectionGrouping', kwargs=3), "ProjectionGrouping has no option 'kwargs'; it takes no options"),
        ('WindowGrouping', "grouping must be a dict with a type, .* got 'WindowGrouping'"),
        (dict(type='WindowGrouping', shift='yes'), r"shift must be one of \(True, False\), got 'yes'"),
        (dict(type='SemanticGrouping', feature='kay'), "feature must be one of .*'key', .* got 'kay'"),
        (dict(type='SemanticGrouping', metric='cos'), "metric must be one of .*'cosine', .* got 'cos'"),
        (dict(type='SemanticGrouping', magnitude=2), r'magnitude must be one of \(True, False\), got 2'),
        (dict(type='SemanticGrouping', cut='runs'), "cut must be one of .*'contiguous', .* got 'runs'"),
        (dict(type='KMeansGrouping', num_iters=0), 'num_iters must be a whole number from 1 up, got 0'),
        (dict(type='KMeansGrouping', num_iters=1.5), 'num_iters must be a whole number from 1 up, got 1.5'),
    ],
)
def test_a_misspelt_type_or_option_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        build_grouping(config)


def test_a_grouping_knows_the_place_of_its_block():
    assert build_grouping(dict(type='WindowGrouping'), 3).block == 3


@each_grouping
def test_equal_tokens_give_a_grouping(grouping):
    for value in (0.0, 3.0):
        order = build_grouping(grouping).eval()(tokens_of(torch.full((2, 40, 2, 8), value), (5, 8)), 7).order
        assert torch.equal(order.sort(-1).values, torch.arange(40).expand_as(order))


@each_grouping
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_numbers_that_are_not_finite_give_a_grouping(grouping, value):
    tokens = tokens_of(torch.randn(2, 200, 2, 8), (10, 20))
    for each in (tokens.query, tokens.key, tokens.value, tokens.token):
        each[0, 7, 1, 3] = each[1, 9] = value
    for num_clusters in (7, 50):  # k-means has two levels beyond 32
        order = build_grouping(grouping).eval()(tokens, num_clusters).order
        assert torch.equal(order.sort(-1).values, torch.arange(200).expand_as(order))


@each_grouping
def test_a_grouping_in_evaluation_is_deterministic_and_one_of_each_image(grouping):
    method = build_grouping(grouping, block=1).eval()
    qkv, token = torch.randn(3, 60, 3, 2, 8), torch.randn(3, 60, 2, 8)
    tokens = Tokens(qkv, token, (6, 10))
    together = method(tokens, 7).order.expand(3, 2, -1)
    torch.manual_seed(5)
    apart = [method(Tokens(qkv[i : i + 1], token[i : i + 1], (6, 10)), 7).order.expand(1, 2, -1) for i in range(3)]
    assert torch.equal(together, torch.cat(apart))


@pytest.mark.parametrize(
    ('grouping', 'sized'),
    [
        (dict(type='SemanticGrouping'), True),
        (dict(type='SemanticGrouping', cut='interleaved'), False),
        (dict(type='KMeansGrouping'), False),
        (dict(type='KMeansGrouping'), True),  # more than 32 clusters have a second level
        (dict(type='ProjectionGrouping'), False),
        (dict(type='RandomGrouping'), False),
        (dict(type='WindowGrouping', shift=True), False),
        (dict(type='WindowGrouping', shift=True), True),
    ],
    ids=str,
)
def test_one_graph_for_every_size(grouping, sized):
    torch._dynamo.reset()
    method = build_grouping(grouping, block=1).eval()

    def group(x):
        heads = x.flatten(1, 2).unflatten(-1, (2, -1))
        count = -(-heads.shape[1] // 10) if sized else min(8, heads.shape[1])
        return method(tokens_of(heads, (x.shape[1], x.shape[2])), count).order

    compiled = torch.compile(group, backend='aot_eager', fullgraph=True, dynamic=True)
    for stance, *size in (('default', 16, 24), ('fail_on_recompile', 32, 24), ('fail_on_recompile', 23, 41)):
        x = torch.randn(2, *size, 36)  # of the last size N does not divide by the number of clusters
        with torch.compiler.set_stance(stance):
            assert torch.equal(compiled(x), group(x))
