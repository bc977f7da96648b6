"""Scores in two launches, in the interpreter, against float64."""

import pytest
import torch
from torch import Tensor

from mmsec.ops.kernels.gpu import score


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs, which take long in the interpreter, and several tiles in each."""
    tiles = {'score_sums': [dict(BT=16, PARTS=4, warps=4)], 'scores': [dict(BT=64, warps=4)]}
    monkeypatch.setattr(score, 'TILES', tiles)


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
    ('dtype', 'turned'),
    [(torch.float32, True), (torch.float16, True), (torch.float32, False), (torch.bfloat16, False)],
    ids=str,
)
@pytest.mark.parametrize(('size', 'width'), [((2, 63, 2), 32), ((1, 300, 1), 16), ((2, 1, 2), 64), ((1, 130, 2), 128)])
@pytest.mark.parametrize('metric', ['cosine', 'dot', 'euclidean'])
def test_scores(size: tuple[int, int, int], width: int, metric: str, dtype: torch.dtype, turned: bool) -> None:
    torch.manual_seed(0)
    batch, num_tokens, heads = size
    beside = 16 if num_tokens > 1 else 0  # channels beside qkv, which is then a slice
    qkv = (0.5 + torch.randn(batch, num_tokens, 3 * heads * width + beside)).to(dtype)
    key = qkv[..., : 3 * heads * width].unflatten(2, (3, heads, width))[:, :, 1]
    angle = 6 * torch.rand(num_tokens, width // 2)
    table = torch.stack([angle.cos(), angle.sin()], -1) if turned else None
    magnitude = metric == 'dot'
    assert score.serves(key, table, metric) is None
    got = score.semantic_scores(key, table, metric, magnitude)
    assert got.dtype == torch.float32
    assert got.is_contiguous()
    usual, exact = plain(key, table, metric, magnitude), plain(key.double(), table, metric, magnitude)
    error = (got - exact).norm()
    # Absolute, for the distance of a single token from itself.
    assert error <= 2 * (usual - exact).norm() + 1e-6 * exact.norm() + 1e-6
    assert torch.equal(got, score.semantic_scores(key, table, metric, magnitude))


def test_equal_tokens_score_alike_and_empty_ones_zero() -> None:
    key = torch.randn(1, 70, 1, 16)
    key[:, ::7] = key[:, :1].clone()
    key[:, 1::7] = 0
    scores = score.semantic_scores(key, None, 'cosine', False)[0, 0]
    assert scores[::7].unique().numel() == 1
    assert (scores[1::7] == 0).all()
    assert not scores.isnan().any()


def test_magnitude() -> None:
    key = torch.randn(1, 40, 2, 16)
    signed = score.semantic_scores(key, None, 'cosine', False)
    assert signed.min() < 0
    assert torch.equal(score.semantic_scores(key, None, 'cosine', True), signed.abs())


def test_refused_tensors() -> None:
    key, table = torch.zeros(2, 6, 2, 32), torch.zeros(6, 16, 2)
    assert score.serves(key, table, 'cosine') is None
    assert 'cos' in (score.serves(key, table, 'cos') or '')
    assert 'float64' in (score.serves(key.double(), table, 'dot') or '')
    assert '24' in (score.serves(key[..., :24], None, 'dot') or '')
    assert 'strides' in (score.serves(key[:, 1:], None, 'dot') or '')
    assert 'table' in (score.serves(key, table.double(), 'dot') or '')
