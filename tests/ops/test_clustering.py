import pytest
import torch

from mmsec.ops import cluster_ranks, cluster_sizes, semantic_grouping, semantic_scores, window_grouping


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


def test_scores_are_the_cosine_with_the_mean_key_of_image_and_head():
    k = torch.randn(2, 11, 3, 8, dtype=torch.float64)
    center = k.mean(1, keepdim=True).expand_as(k)
    expected = torch.nn.functional.cosine_similarity(k, center, dim=-1).transpose(1, 2)
    torch.testing.assert_close(semantic_scores(k), expected)


def test_scores_ignore_scale_and_survive_zeros():
    k = torch.randn(1, 9, 2, 8)
    torch.testing.assert_close(semantic_scores(k * 1e-3), semantic_scores(k))
    assert torch.equal(semantic_scores(torch.zeros(1, 5, 1, 8)), torch.zeros(1, 1, 5))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_scores_are_float32_whatever_the_keys_and_autocast(dtype):
    k = torch.randn(2, 30, 2, 16).to(dtype)
    with torch.autocast('cpu', torch.bfloat16):
        scores = semantic_scores(k)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), semantic_scores(k.double()), atol=1e-6, rtol=1e-5)


def test_order_is_a_permutation_by_ascending_score_and_inverse_undoes_it():
    k = torch.randn(2, 53, 3, 8)
    order, inverse, num_clusters = semantic_grouping(k, 5)
    assert num_clusters == 5
    raster = torch.arange(53).expand(2, 3, 53)
    assert torch.equal(order.sort(-1).values, raster)
    assert torch.equal(order.gather(-1, inverse), raster)
    assert torch.equal(inverse.gather(-1, order), raster)
    assert (semantic_scores(k).gather(-1, order).diff() >= 0).all()


def test_equal_keys_keep_their_raster_order():
    order = semantic_grouping(torch.ones(1, 200, 1, 4), 8).order
    assert torch.equal(order[0, 0], torch.arange(200))


def test_no_gradient_flows_through_the_scores():
    assert not semantic_scores(torch.randn(1, 4, 1, 4, requires_grad=True)).requires_grad


@pytest.mark.parametrize(('num_tokens', 'num_clusters'), [(41, 4), (40, 4), (3, 3), (5, 1)])
def test_ranks_cut_the_sorted_list_into_the_cluster_sizes(num_tokens, num_clusters):
    grouping = semantic_grouping(torch.randn(2, num_tokens, 3, 8), num_clusters)
    num_long, num_short, length = cluster_sizes(num_tokens, num_clusters)
    sizes = torch.tensor([length + 1] * num_long + [length] * num_short)
    wanted = torch.arange(num_clusters).repeat_interleave(sizes).expand(2, 3, -1)
    assert torch.equal(cluster_ranks(grouping).gather(-1, grouping.order), wanted)


@pytest.mark.parametrize(
    ('height', 'width', 'num_clusters'), [(8, 8, 4), (7, 9, 5), (1, 13, 3), (20, 3, 7), (4, 4, 16)]
)
def test_windows_are_a_grouping_of_equal_sizes(height, width, num_clusters):
    grouping = window_grouping(height, width, num_clusters)
    raster = torch.arange(height * width)
    assert torch.equal(grouping.order[0, 0].sort().values, raster)
    assert torch.equal(grouping.order.gather(-1, grouping.inverse)[0, 0], raster)
    sizes = cluster_ranks(grouping).flatten().bincount(minlength=num_clusters)
    num_long, num_short, length = cluster_sizes(height * width, num_clusters)
    assert sizes.tolist() == [length + 1] * num_long + [length] * num_short


def test_windows_are_square_where_sizes_allow():
    ranks = cluster_ranks(window_grouping(8, 12, 6)).view(8, 12)
    expected = torch.arange(6).view(2, 3).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(ranks, expected)


def test_windows_refuse_a_count_that_does_not_fit():
    with pytest.raises(ValueError, match=r'num_clusters must be in \[1, 6\]'):
        window_grouping(2, 3, 7)
