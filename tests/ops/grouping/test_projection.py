import pytest
import torch

from mmsec.ops.grouping.projection import random_directions
from tests.conftest import build_grouping, tokens_of


def test_tokens_stand_in_the_order_of_their_cosine_with_the_direction_of_the_head():
    method = build_grouping(dict(type='ProjectionGrouping'), block=2)
    key = torch.randn(2, 50, 3, 8, dtype=torch.float64)
    directions = random_directions(2, 3, 8, key.device)
    grouping = method(tokens_of(key), 4)
    for image in range(2):
        for head in range(3):
            x, r = key[image, :, head], directions[head]
            wanted = torch.stack([(token @ r) / (token @ token).sqrt() / (r @ r).sqrt() for token in x])
            torch.testing.assert_close(method.scores(tokens_of(key))[image, head], wanted)
            assert grouping.order[image, head].tolist() == sorted(range(50), key=lambda i, w=wanted: w[i].item())


def test_directions_are_fixed_and_differ_between_heads_and_blocks():
    directions = torch.cat([random_directions(block, 4, 8, torch.device('cpu')) for block in range(3)])
    assert torch.equal(directions[:4], random_directions(0, 4, 8, torch.device('cpu')))
    cosines = torch.corrcoef(directions).fill_diagonal_(0)
    assert cosines.abs().max() < 0.95


def test_directions_are_normally_distributed():
    values = torch.stack([random_directions(block, 16, 32, torch.device('cpu')) for block in range(60)]).flatten()
    values /= values.std()
    assert values.mean().item() == pytest.approx(0, abs=0.03)
    assert (values.abs() < 1).double().mean().item() == pytest.approx(0.6827, abs=0.015)
    assert (values.abs() < 2).double().mean().item() == pytest.approx(0.9545, abs=0.007)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_scores_are_float32_whatever_the_keys_and_autocast(dtype):
    method, key = build_grouping(dict(type='ProjectionGrouping')), torch.randn(2, 30, 2, 16).to(dtype)
    with torch.autocast('cpu', torch.bfloat16):
        scores = method.scores(tokens_of(key))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), method.scores(tokens_of(key.double())), atol=1e-6, rtol=1e-5)
