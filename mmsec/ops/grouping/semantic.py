"""Semantic equitable clustering: tokens that are similarly close to the mean key attend to each other."""

import torch
from torch import Tensor

from mmsec.ops.grouping.grouping import Grouping, part_of, part_start
from mmsec.ops.grouping.method import GROUPINGS, GroupingMethod, Tokens, check_option
from mmsec.ops.grouping.similarity import cosine, dot, euclidean, in_float
from mmsec.ops.kernels import fused_op, triton

METRICS = {'cosine': cosine, 'dot': dot, 'euclidean': euclidean}
_NAMES = {'cosine': 'cosine with', 'dot': 'dot product with', 'euclidean': 'negative distance to'}


def semantic_scores(x: Tensor, metric: str = 'cosine', magnitude: bool = False) -> Tensor:
    """Similarity of each token with the mean token of its image and head.

    Computed in float32, or in float64 for float64 tokens, whatever autocast says.

    Args:
        x (Tensor): (B, N, h, d) tokens; in what is published, the rotated keys.
        metric (str): 'cosine', in [-1, 1], as published, where an all-zero token scores 0; 'dot', the dot product;
            'euclidean', the distance, negated. Default: 'cosine'.
        magnitude (bool): Whether to take the absolute value. Default: False, as published.

    Returns:
        Tensor: (B, h, N) scores, without gradient.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2.
    """
    x = in_float(x)
    scores = METRICS[metric](x, x.mean(dim=1, keepdim=True)).transpose(1, 2)
    return scores.abs() if magnitude else scores


@fused_op(triton.SCORES)
def token_scores(tokens: Tokens, feature: str, metric: str, magnitude: bool) -> Tensor:
    """(B, h, N), :func:`semantic_scores` of one feature of the tokens: 'key', 'query', 'value' or 'token'."""
    return semantic_scores(getattr(tokens, feature), metric, magnitude)


@fused_op(triton.SORT)
def argsort(scores: Tensor) -> Tensor:
    """(B, h, N) scores -> int64 positions in ascending order of them; tokens that score alike keep their order."""
    # Sorting along a strided dimension takes up to three times as long.
    return scores.contiguous().argsort(dim=-1, stable=True)


def interleaved_positions(num_tokens: int, num_clusters: int, device: torch.device) -> Tensor:
    """(N,) int64 positions in a sorted list, where cluster j of M takes positions j, j + M, j + 2M, ...

    Source: Semantic Equitable Clustering (arXiv 2405.13337), equation 5.
    """
    position = torch.arange(num_tokens, device=device)
    cluster = part_of(position, num_tokens, num_clusters)
    return cluster + (position - part_start(cluster, num_tokens, num_clusters)) * num_clusters


@GROUPINGS.register_module()
class SemanticGrouping(GroupingMethod):
    """Group tokens by their similarity with the mean, in one pass; the defaults are what is published.

    Tokens stand in ascending order of :func:`semantic_scores`. The sort is stable, so equal tokens keep their raster
    order and equal inputs give equal groupings.

    Args:
        feature (str): What is scored: 'key', 'query', 'value' or 'token', the layer's input; see
            :class:`mmsec.ops.Tokens`. Default: 'key'.
        metric (str): 'cosine', 'dot' or 'euclidean'. Default: 'cosine'.
        magnitude (bool): Whether the sign of the score does not count. Default: False.
        cut (str): 'contiguous' makes a cluster of neighbours in the sorted list, which score alike (equation 3).
            'interleaved' makes each cluster a sample of the whole list (equation 5); such clusters have no order, so
            there are no scores to draw. Default: 'contiguous'.

    Raises:
        ValueError: If an option has another value.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2.
    """

    def __init__(
        self, feature: str = 'key', metric: str = 'cosine', magnitude: bool = False, cut: str = 'contiguous'
    ) -> None:
        super().__init__()
        check_option('feature', feature, ('key', 'query', 'value', 'token'))
        check_option('metric', metric, tuple(METRICS))
        check_option('magnitude', magnitude, (True, False))
        check_option('cut', cut, ('contiguous', 'interleaved'))
        self.feature = feature
        self.metric = metric
        self.magnitude = magnitude
        self.cut = cut
        if cut == 'contiguous':
            self.score_name = 'magnitude of the ' * magnitude + f'{_NAMES[metric]} the mean {feature}'

    def forward(self, tokens: Tokens, num_clusters: int) -> Grouping:
        """Group the tokens; see :class:`GroupingMethod`."""
        order = argsort(self._scores(tokens))
        if self.cut == 'interleaved':
            order = order[..., interleaved_positions(order.shape[-1], num_clusters, order.device)]
        return Grouping(order, num_clusters)

    def scores(self, tokens: Tokens) -> Tensor | None:
        """(B, h, N) scores; None where the cut leaves no order of clusters."""
        return self._scores(tokens) if self.cut == 'contiguous' else None

    def _scores(self, tokens: Tokens) -> Tensor:
        return token_scores(tokens, self.feature, self.metric, self.magnitude)
