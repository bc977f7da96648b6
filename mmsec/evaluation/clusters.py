"""How well clusters agree with annotated masks, and how compact they are in space."""

from typing import NamedTuple

import numpy as np
from mmengine.structures import BaseDataElement

from mmsec.datasets.regions import regions

MEASURES = {
    'ami_classes': 'AMI with classes',
    'ami_instances': 'AMI with instances',
    'purity_classes': 'purity of classes',
    'purity_instances': 'purity of instances',
    'compactness': 'compactness',
}
BASELINES = ('windows', 'random')
_SHUFFLES = 10


class TokenLabels(NamedTuple):
    """What is annotated at each token; -1 where nothing is, or outside the image.

    Attributes:
        classes (np.ndarray): (N,) int64. With instances, 0 is the background and class i is i + 1.
        instances (np.ndarray, optional): (N,) int64, 0 is the background; None where only classes are annotated.
    """

    classes: np.ndarray
    instances: np.ndarray | None


def tokens_inside(image_shape: tuple[int, int], map_shape: tuple[int, int], stride: int) -> tuple[int, int]:
    """Rows and columns of tokens whose centre lies inside the image, at least 1 each; the others cover padding.

    Token i is taken to cover pixels ``stride * i`` to ``stride * (i + 1)``, as feature pyramids and heads do.
    ``image_shape`` is the height and width of the image as the model sees it, without padding.
    """
    height, width = (
        max(1, min(count, (size + (stride - 1) // 2) // stride))
        for count, size in zip(map_shape, image_shape, strict=True)
    )
    return height, width


def token_labels(
    sample: BaseDataElement,
    image_shape: tuple[int, int],
    map_shape: tuple[int, int],
    stride: int,
    num_classes: int | None = None,
) -> TokenLabels | None:
    """Look up what is annotated at the centre of each token; None if the sample has no masks.

    Where instances overlap, the smaller one counts. Crowds, and whatever else the data set says to ignore, are -1.
    Shapes and stride are those of :func:`tokens_inside`. Labels from ``num_classes`` on are no label; without it only
    mmsegmentation's 255 is none.
    """
    segmented = 'gt_sem_seg' in sample
    if not segmented and 'masks' not in sample.get('gt_instances', ()):
        return None
    classes, instances = np.full(map_shape, -1 if segmented else 0), np.zeros(map_shape, np.int64)
    rows, columns = ((np.arange(count) + 0.5) * stride for count in map_shape)  # centres in pixels of the image

    def at_tokens(mask: np.ndarray) -> np.ndarray:
        y = (rows * mask.shape[0] / image_shape[0]).astype(int).clip(max=mask.shape[0] - 1)
        x = (columns * mask.shape[1] / image_shape[1]).astype(int).clip(max=mask.shape[1] - 1)
        return mask[np.ix_(y, x)]

    for number, (mask, label) in enumerate(zip(*regions(sample, 'gt', num_classes=num_classes), strict=True), start=1):
        here = at_tokens(mask)
        classes[here] = label if segmented else label + 1
        instances[here] = number
    height, width = tokens_inside(image_shape, map_shape, stride)
    ignored = np.ones(map_shape, bool)
    ignored[:height, :width] = False
    for mask in regions(sample, 'ignored').masks:
        ignored |= at_tokens(mask)
    classes[ignored] = instances[ignored] = -1
    return TokenLabels(classes.ravel(), None if segmented else instances.ravel())


def agreement(labels: np.ndarray, clusters: np.ndarray, rng: np.random.Generator) -> tuple[float, float] | None:
    """Compare clusters with labels: adjusted mutual information (AMI) and adjusted purity.

    Both are ``(value - chance) / (1 - chance)``: 0 for clusters that know nothing, 1 for clusters that are the labels
    (for purity: hold one label each). Chance is the mean over shuffled labels; without it both grow with the number of
    clusters alone. The value is the mutual information over the mean of the two entropies, or the share of tokens whose
    label is the most frequent one of their cluster.

    Source of AMI: Vinh et al., JMLR 2010, with arithmetic mean; its expectation is estimated by shuffling.

    Args:
        labels (np.ndarray): (N,) int64; tokens of a negative label are left out.
        clusters (np.ndarray): (N,) int64 from 0.
        rng (np.random.Generator): Shuffles.

    Returns:
        tuple[float, float], optional: AMI and purity; None if there are not two labels, whatever the clusters are.
        Clusters that cannot be told from chance, one of all tokens or one for each, get 0.
    """
    labelled = labels >= 0
    labels = np.unique(labels[labelled], return_inverse=True)[1]
    clusters = np.unique(clusters[labelled], return_inverse=True)[1]
    if not len(labels) or labels.max() == 0:
        return None
    measured = np.array(_unadjusted(labels, clusters))
    chance = np.mean([_unadjusted(rng.permutation(labels), clusters) for _ in range(_SHUFFLES)], axis=0)
    ami, purity = np.where(chance < 1 - 1e-9, (measured - chance) / (1 - chance).clip(min=1e-9), 0)
    return float(ami), float(purity)


def _unadjusted(labels: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Normalised mutual information and purity; labels and clusters count from 0."""
    count = labels.max() + 1
    table = np.bincount(clusters * count + labels, minlength=(clusters.max() + 1) * count).reshape(-1, count)
    joint = table / len(labels)
    entropies = _entropy(joint.sum(1)) + _entropy(joint.sum(0))
    mutual_information = entropies - _entropy(joint.ravel())
    return 2 * mutual_information / entropies, table.max(1).sum() / len(labels)


def _entropy(p: np.ndarray) -> float:
    """Entropy of shares that sum to 1, in nats."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def compactness(clusters: np.ndarray) -> float | None:
    """Share of the variance of token positions that lies between clusters (H', W'): 0 if scattered, near 1 if compact.

    Of a padded map, give the part inside the image. None for a map of one token.
    """
    positions = np.moveaxis(np.indices(clusters.shape), 0, -1).reshape(-1, 2).astype(float)  # (N, 2)
    total = ((positions - positions.mean(0)) ** 2).sum()
    if total == 0:
        return None
    flat = np.unique(clusters.ravel(), return_inverse=True)[1]
    sizes = np.bincount(flat)
    centres = np.stack([np.bincount(flat, weights=axis) / sizes for axis in positions.T], axis=1)
    return float(1 - ((positions - centres[flat]) ** 2).sum() / total)
