import pytest
import torch

from mmsec.ops import Tokens, cluster_ids
from mmsec.ops.grouping.semantic import SemanticGrouping, semantic_scores
from tests.conftest import build_grouping, tokens_of


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


def test_equal_keys_keep_their_raster_order():
    order = SemanticGrouping()(tokens_of(torch.ones(1, 200, 1, 4)), 8).order
    assert torch.equal(order[0, 0], torch.arange(200))


FEATURES = ('query', 'key', 'value', 'token')


def plain_score(x, center, metric):
    if metric == 'euclidean':
        return -((x - center) ** 2).sum().sqrt()
    product = (x * center).sum()
    return product if metric == 'dot' else product / ((x**2).sum() * (center**2).sum()).sqrt()


@pytest.mark.parametrize('feature', FEATURES)
@pytest.mark.parametrize('metric', ['cosine', 'dot', 'euclidean'])
@pytest.mark.parametrize('magnitude', [False, True])
def test_each_feature_and_metric_equals_a_plain_computation(feature, metric, magnitude):
    parts = torch.randn(4, 2, 23, 3, 8, dtype=torch.float64)
    of = dict(zip(FEATURES, parts, strict=True))
    qkv = torch.stack([of[name] for name in ('query', 'key', 'value')], dim=2)
    tokens, x = Tokens(qkv, of['token'], (23, 1)), of[feature]
    method = build_grouping(dict(type='SemanticGrouping', feature=feature, metric=metric, magnitude=magnitude))
    order = method(tokens, 4).order
    for image in range(2):
        for head in range(3):
            mine = x[image, :, head]
            scores = torch.stack([plain_score(token, mine.mean(0), metric) for token in mine])
            scores = scores.abs() if magnitude else scores
            torch.testing.assert_close(method.scores(tokens)[image, head], scores)
            assert order[image, head].tolist() == sorted(range(23), key=lambda i, s=scores: s[i].item())


@pytest.mark.parametrize(('num_tokens', 'num_clusters'), [(24, 4), (23, 4), (7, 7), (7, 5), (9, 1)])
def test_an_interleaved_cluster_takes_every_mth_place(num_tokens, num_clusters):
    tokens = tokens_of(torch.randn(2, num_tokens, 3, 8))
    plain = SemanticGrouping()(tokens, num_clusters).order
    method = SemanticGrouping(cut='interleaved')
    ids = cluster_ids(method(tokens, num_clusters))
    assert torch.equal(ids.gather(-1, plain), (torch.arange(num_tokens) % num_clusters).expand_as(plain))
    assert method.scores(tokens) is None


def test_a_figure_says_what_the_scores_are():
    assert SemanticGrouping().score_name == 'cosine with the mean key'
    named = SemanticGrouping(feature='token', metric='dot', magnitude=True).score_name
    assert named == 'magnitude of the dot product with the mean token'


def test_the_defaults_are_what_is_published_bit_for_bit():
    key = torch.randn(2, 301, 3, 16)
    center = key.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(key, dim=-1) * torch.linalg.vector_norm(center, dim=-1)
    scores = ((key * center).sum(dim=-1) / norms).transpose(1, 2)
    grouping = SemanticGrouping()(tokens_of(key), 7)
    assert torch.equal(semantic_scores(key), scores)
    assert torch.equal(grouping.order, scores.contiguous().argsort(dim=-1, stable=True))
