"""ATC: the two closest clusters of tokens become one until few enough are left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmsec import compat
from mmsec.ops.merging.matching import positions, products, unit
from mmsec.ops.merging.merging import Merging
from mmsec.ops.merging.method import MERGINGS, MergingMethod, check_layers
from mmsec.ops.merging.sizes import at_least, product, rounded

Linkage = Literal['single', 'complete', 'average']


@torch.no_grad()
def agglomerative(metric: Tensor, num_clusters: int, linkage: Linkage = 'average', protected: int = 0) -> Merging:
    """Merge the two closest clusters of tokens until K are left; at first each token is one.

    The distance of two tokens is 1 - cosine. Each image is clustered on the host by scipy's ``linkage``, which takes
    O(n^2) time and memory: tokens of a GPU are copied there and back, and the more tokens, the more of the time saved
    is lost.

    Args:
        metric (Tensor): (B, T, d) what tokens are compared by, with the protected ones.
        num_clusters (int): Clusters K of the unprotected tokens, at least 1 and at most as many as these.
        linkage (str): What the distance of two clusters is: 'single', the least of two of their tokens; 'complete', the
            largest; 'average', the mean.
        protected (int): Tokens at the front that never merge.

    Returns:
        Merging: Into the protected tokens and K clusters, in the order of their first tokens.

    Source: Agglomerative Token Clustering (arXiv 2409.11923).
    """
    front = positions(metric.shape[0], 0, protected, metric.device)
    labels = _agglomerative(unit(metric[:, protected:]), metric.new_empty(0, num_clusters), linkage)
    return Merging.from_assignment(torch.cat([front, labels + protected], dim=1), protected + num_clusters)


# One operator for graphs: what is done on the host is no part of them. The number of clusters is a shape, for as a
# number it would be a constant of a trace.
@compat.custom_op('mmsec::agglomerative', by_values=True)
def _agglomerative(metric: Tensor, clusters: Tensor, linkage: str) -> Tensor:
    """(B, n, d) of length 1 -> (B, n) int64, the cluster of each token."""
    from scipy.cluster import hierarchy

    num_tokens, num_clusters = metric.shape[1], clusters.shape[1]
    upper = torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(1)
    labels = []
    for tokens in metric.cpu():
        parent = list(range(num_tokens))  # of tokens and, after them, of the clusters in the order they are made
        if num_clusters < num_tokens:
            distances = 1 - torch.cat([*products(tokens[None], tokens[None])], dim=1)[0, upper]
            steps = hierarchy.linkage(distances.clamp(min=0).nan_to_num(2).numpy(), linkage)
            for a, b in steps[: num_tokens - num_clusters, :2].astype(int):
                parent[a] = parent[b] = len(parent)
                parent.append(len(parent))
        for each in reversed(range(len(parent))):
            parent[each] = parent[parent[each]]
        numbers = {root: number for number, root in enumerate(dict.fromkeys(parent[:num_tokens]))}
        labels.append([numbers[root] for root in parent[:num_tokens]])
    return torch.tensor(labels, device=metric.device)


@_agglomerative.register_fake
def _(metric: Tensor, clusters: Tensor, linkage: str) -> Tensor:
    return metric.new_empty(metric.shape[:2], dtype=torch.int64)


@compat.flop_formula('agglomerative')
def _flops(
    metric_shape: Sequence[int], clusters_shape: Sequence[int], linkage: str, *, out_shape: Sequence[int]
) -> int:
    """Floating point operations of the distances of all pairs, two for each multiply-add."""
    batch, num_tokens, channels = metric_shape
    return 2 * batch * num_tokens**2 * channels


@MERGINGS.register_module()
@dataclass(frozen=True)
class ATC(MergingMethod):
    """Agglomerative Token Clustering in some blocks, between attention and MLP, by the keys.

    It is slow: clusters are found on the CPU, image after image, in time that grows with the square of the tokens. It
    needs the package scipy.

    Args:
        keep (float): Share of its tokens that each of these blocks keeps, in (0, 1].
        linkage (str): 'single', 'complete' or 'average'. Published: average for MAE's weights, complete for DeiT's,
            single on COCO.
        layers (Sequence[int]): Blocks that merge, from 0, in ascending order. Published: 3, 6 and 9.
        proportional_attention (bool): Whether attention adds log(size) of the key's token to the logits.

    Raises:
        ValueError: If an option is none of these, or the network has no such blocks.

    Source: Agglomerative Token Clustering (arXiv 2409.11923); tokens to keep as in its code for detection.
    """

    keep: float = 0.7
    linkage: Linkage = 'average'
    layers: Sequence[int] = (3, 6, 9)
    proportional_attention: bool = True

    place = 'after_attention'

    def __post_init__(self) -> None:
        check_layers(self)
        if not isinstance(self.keep, (int, float)) or not 0 < self.keep <= 1:
            raise ValueError(f'keep of ATC must be in (0, 1], the share of tokens a block keeps, got {self.keep!r}')
        if self.linkage not in ('single', 'complete', 'average'):
            raise ValueError(f"linkage of ATC must be 'single', 'complete' or 'average', got {self.linkage!r}")

    def check_blocks(self, depth: int, built: int) -> None:
        """See :class:`MergingMethod`."""
        check_layers(self, built)

    def __call__(
        self,
        features: Tensor,
        *,
        layer: int,
        depth: int,
        grid: tuple[int, int],
        protected: int = 0,
        sizes: Tensor | None = None,
    ) -> Merging | None:
        """See :class:`MergingMethod`; by :func:`agglomerative`."""
        self.check_blocks(depth, depth)
        count = features.shape[1] - protected
        num_clusters = at_least(rounded(product(self.keep, count)), 1)
        if layer not in self.layers or num_clusters == count:
            return None
        return agglomerative(features, num_clusters, self.linkage, protected)
