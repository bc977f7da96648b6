"""The sort in one launch is torch's stable sort."""

import pytest
import torch

pytest.importorskip('triton', reason='Triton is not installed')

from mmsec.ops.kernels.gpu import sort


@pytest.mark.parametrize('length', [1, 100, 512, 1050, 8192])
def test_order_is_that_of_torch(length):
    scores = (torch.randn(2, 3, length) * 4).round() / 4  # with many ties
    special = torch.tensor([-0.0, 0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan, torch.nan, 3e38, -1e-45])
    scores[0, 1, : len(special)] = special[:length]
    scores[1, 2] = torch.nan
    assert sort.serves(scores) is None
    assert torch.equal(sort.argsort(scores), scores.argsort(dim=-1, stable=True))


@pytest.mark.parametrize(
    ('reason', 'scores'),
    [
        ('float64', torch.zeros(2, 8).double()),
        ('contiguous', torch.zeros(8, 2).T),
        ('8193', torch.zeros(1, 8193)),
        ('lists of 0', torch.zeros(1, 0)),
    ],
)
def test_what_is_not_served(reason, scores):
    assert reason in sort.serves(scores)
