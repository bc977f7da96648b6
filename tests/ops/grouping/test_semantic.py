import pytest
import torch

from mmsec.ops.grouping.semantic import SemanticGrouping, semantic_scores
from tests.conftest import tokens_of


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


def test_tokens_stand_in_ascending_order_of_the_score():
    k = torch.randn(2, 53, 3, 8)
    order = SemanticGrouping()(tokens_of(k), 5).order
    assert (semantic_scores(k).gather(-1, order).diff() >= 0).all()


def test_equal_keys_keep_their_raster_order():
    order = SemanticGrouping()(tokens_of(torch.ones(1, 200, 1, 4)), 8).order
    assert torch.equal(order[0, 0], torch.arange(200))


def test_no_gradient_flows_through_the_scores():
    assert not semantic_scores(torch.randn(1, 4, 1, 4, requires_grad=True)).requires_grad
