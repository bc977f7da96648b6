"""Data samples of mmdetection and mmsegmentation -> areas of an image that have a class."""

from typing import NamedTuple

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

_UNLABELLED = 255  # of mmsegmentation


class Regions(NamedTuple):
    """Areas of an image that have a class: instances of a detector, or all pixels of a class of a segmenter.

    Attributes:
        masks (np.ndarray): (n, H, W) bool, larger areas first, so that smaller ones come to lie on top.
        labels (np.ndarray): (n,) int64.
    """

    masks: np.ndarray
    labels: np.ndarray


def regions(sample: BaseDataElement, kind: str, score_thr: float = 0.0, num_classes: int | None = None) -> Regions:
    """Take the areas out of a data sample.

    Args:
        sample (BaseDataElement): A DetDataSample or SegDataSample.
        kind (str): 'gt', 'pred' or 'ignored'.
        score_thr (float): Predicted instances below this score are left out. Default: 0.
        num_classes (int, optional): Labels from here on, which a data set may use for what is not labelled, are left
            out. Default: None, only mmsegmentation's 255 is.

    Returns:
        Regions: Masks of the instances, their boxes where they have no masks, or one area for each class; none if the
        sample holds none of them.
    """
    masks: np.ndarray = np.zeros((0, 1, 1), bool)
    labels: np.ndarray = np.zeros(0, np.int64)
    if f'{kind}_sem_seg' in sample:
        label_map = sample.get(f'{kind}_sem_seg').data[0].cpu().numpy()  # (H, W)
        labels = np.setdiff1d(label_map, _UNLABELLED).astype(np.int64)
        masks = label_map == labels[:, None, None]
    elif len(sample.get(f'{kind}_instances', ())):
        instances = sample.get(f'{kind}_instances')
        if 'scores' in instances:
            instances = instances[instances.scores >= score_thr]
        labels = instances.labels.cpu().numpy()
        if 'masks' not in instances:
            masks = _box_masks(instances.bboxes, sample.ori_shape)
        elif hasattr(instances.masks, 'to_ndarray'):
            masks = instances.masks.to_ndarray().astype(bool)
        else:
            masks = torch.as_tensor(instances.masks).cpu().numpy().astype(bool)
    if num_classes is not None:
        masks, labels = masks[labels < num_classes], labels[labels < num_classes]
    largest_first = np.argsort(-masks.sum((1, 2)), kind='stable')
    return Regions(masks[largest_first], labels[largest_first])


def _box_masks(boxes: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """(n, 4) boxes as corners, or mmdetection's box structure, as filled (n, H, W) bool masks."""
    masks = np.zeros((len(boxes), *shape[:2]), bool)
    for mask, (left, top, right, bottom) in zip(masks, getattr(boxes, 'tensor', boxes).tolist(), strict=True):
        mask[max(round(top), 0) : round(bottom), max(round(left), 0) : round(right)] = True
    return masks
