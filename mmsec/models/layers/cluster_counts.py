"""How many clusters each block makes: a fixed number, or as many as their size asks for."""

from collections.abc import Sequence
from typing import NamedTuple

PerStage = Sequence[int | Sequence[int]]  # a list in place of a number has one for each block


class ClusterCount(NamedTuple):
    """The number of clusters of one block.

    Attributes:
        value (int): Clusters, or tokens that a cluster holds at most.
        is_size (bool): Whether it is the latter. Default: False.
    """

    value: int
    is_size: bool = False

    @property
    def is_global(self) -> bool:
        """Whether every map is one cluster."""
        return self.value == 1 and not self.is_size

    def of(self, num_tokens: int) -> int:
        """Clusters of a map of ``num_tokens`` tokens, at most one per token."""
        return -(-num_tokens // self.value) if self.is_size else min(self.value, num_tokens)


def cluster_counts(
    num_clusters: PerStage | None, cluster_size: int | PerStage | None, depths: Sequence[int]
) -> list[list[ClusterCount]]:
    """Read the two options of a backbone, one of which is given.

    Args:
        num_clusters (Sequence[int | Sequence[int]], optional): Clusters per stage, whatever the image size; a list in
            place of a number has one per block of the stage.
        cluster_size (int | Sequence[int | Sequence[int]], optional): Tokens per cluster at most, for all stages, per
            stage or, as above, per block.
        depths (Sequence[int]): Blocks of each stage.

    Returns:
        list[list[ClusterCount]]: For each stage those of its blocks.

    Raises:
        ValueError: If both are given or none, or there are not as many values as stages or blocks, or one is below 1.
    """
    if (num_clusters is None) == (cluster_size is None):
        raise ValueError(
            'num_clusters and cluster_size exclude each other, '
            f'got num_clusters={num_clusters} and cluster_size={cluster_size}'
        )
    name = 'num_clusters' if cluster_size is None else 'cluster_size'
    values = num_clusters if cluster_size is None else cluster_size
    if name == 'cluster_size' and isinstance(values, int):
        values = (values,) * len(depths)
    if not isinstance(values, Sequence) or len(values) != len(depths):
        raise ValueError(f'{name} must have one value per stage, {len(depths)}, got {values}')
    counts = []
    for i, (value, depth) in enumerate(zip(values, depths, strict=True)):
        of_blocks = value if isinstance(value, Sequence) else [value] * depth
        if len(of_blocks) != depth:
            raise ValueError(f'{name} of stage {i} must have one value per block, {depth}, got {value}')
        if not all(isinstance(each, int) and each >= 1 for each in of_blocks):
            raise ValueError(f'{name} must be whole numbers of at least 1, got {tuple(values)}')
        counts.append([ClusterCount(each, name == 'cluster_size') for each in of_blocks])
    return counts


def per_stage(grouping: dict | Sequence[dict], num_stages: int) -> Sequence[dict]:
    """Read the option ``grouping``: a dict for all stages, or one dict per stage.

    Raises:
        ValueError: If there are not as many as stages.
    """
    if not isinstance(grouping, list | tuple):
        return [grouping] * num_stages  # type: ignore[list-item]
    if len(grouping) != num_stages:
        raise ValueError(f'grouping must be a dict or one dict per stage, {num_stages}, got {len(grouping)}')
    return grouping
