"""Scores in two launches, in the interpreter, against float64."""

import pytest
import torch
from torch import Tensor

pytest.importorskip('triton', reason='Triton is not installed')

from mmsec.ops.kernels.gpu import score


def plain(key: Tensor, table: Tensor | None, metric: str, magnitude: bool) -> Tensor:
    """Scores (B, h, N) of keys (B, N, h, d): rotated in the type of the table, rounded, then in it."""
    dtype = torch.promote_types(key.dtype, torch.float32)
    if table is not None:
        cos, sin = table.to(dtype)[:, None].unbind(-1)
        a, b = key[..., 0::2], key[..., 1::2]
        key = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(key.dtype)
    x = key.to(dtype)
    mean = x.mean(1, keepdim=True)
    scores = -(x - mean).square().sum(-1).sqrt() if metric == 'euclidean' else (x * mean).sum(-1)
    if metric == 'cosine':
        scores = scores / (x.square().sum(-1) * mean.square().sum(-1)).sqrt().clamp_min(1e-300)
    return (scores.abs() if magnitude else scores).transpose(1, 2)


# The interpreter cuts float32 to bfloat16 and does not round, so rotated bfloat16 is for a GPU.
@pytest.mark.parametrize(
    ('size', 'width', 'dtype', 'turned'),
    [
        ((2, 63, 2), 32, torch.float32, True),
        ((1, 130, 2), 128, torch.float16, True),
        ((1, 300, 1), 16, torch.bfloat16, False),
        ((2, 1, 2), 64, torch.float32, False),
    ],
)
@pytest.mark.parametrize(('metric', 'magnitude'), [('cosine', False), ('dot', True), ('euclidean', False)])
def test_scores(size, width, dtype, turned, metric, magnitude):
    batch, num_tokens, heads = size
    beside = 16 if num_tokens > 1 else 0  # channels beside qkv, which is then a slice
    qkv = (0.5 + torch.randn(batch, num_tokens, 3 * heads * width + beside)).to(dtype)
    key = qkv[..., : 3 * heads * width].unflatten(2, (3, heads, width))[:, :, 1]
    angle = 6 * torch.rand(num_tokens, width // 2)
    table = torch.stack([angle.cos(), angle.sin()], -1) if turned else None
    assert score.serves(key, table, metric) is None
    got, again = (score.semantic_scores(key, table, metric, magnitude) for _ in range(2))
    assert torch.equal(got, again)
    assert got.dtype == torch.float32
    assert got.is_contiguous()
    usual, exact = plain(key, table, metric, magnitude), plain(key.double(), table, metric, magnitude)
    # Absolute, for the distance of a single token from itself.
    assert (got - exact).norm() <= 2 * (usual - exact).norm() + 1e-6 * exact.norm() + 1e-6


def test_equal_tokens_score_alike_and_empty_ones_zero():
    key = torch.randn(1, 70, 1, 16)
    key[:, ::7] = key[:, :1].clone()
    key[:, 1::7] = 0
    scores = score.semantic_scores(key, None, 'cosine', False)[0, 0]
    assert scores[::7].unique().numel() == 1
    assert (scores[1::7] == 0).all()
    assert not scores.isnan().any()


@pytest.mark.parametrize(
    ('reason', 'change'),
    [
        ('cos', dict(metric='cos')),
        ('float64', dict(key=torch.zeros(2, 6, 2, 32).double())),
        ('24', dict(key=torch.zeros(2, 6, 2, 24))),
        ('strides', dict(key=torch.zeros(2, 7, 2, 32)[:, 1:])),
        ('table', dict(table=torch.zeros(6, 16, 2).double())),
    ],
)
def test_what_is_not_served(reason, change):
    assert reason in score.serves(**dict(key=torch.zeros(2, 6, 2, 32), table=None, metric='cosine') | change)
