"""The images and labels that probe_merging.py tests with, as tools/dataset_converters writes them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np


class Sample(NamedTuple):
    """An image and a function that gives its labels, (H, W) uint8, 255 where there is none."""

    image: Path
    labels: Callable[[], np.ndarray]


def camvid(root: Path, train: bool) -> list[Sample]:
    """The training or test images of CamVid, as tools/dataset_converters/camvid.py writes it."""
    split = 'train' if train else 'test'
    images = sorted((root / 'images' / split).glob('*.jpg'))
    labels = [root / 'annotations' / split / f'{each.stem}.png' for each in images]
    return [Sample(*each) for each in zip(images, [partial(mmcv.imread, p, 'unchanged') for p in labels], strict=True)]


def nuclei(root: Path, train: bool) -> list[Sample]:
    """The training or validation images of tools/dataset_converters/nuclei.py; a pixel is of a nucleus or not."""
    from pycocotools.coco import COCO

    split = 'train' if train else 'val'
    coco = COCO(str(root / f'annotations/{split}.json'))

    def labels(image: int) -> np.ndarray:
        size = coco.imgs[image]
        masks = [coco.annToMask(each) for each in coco.loadAnns(coco.getAnnIds(image))]
        return np.max([np.zeros((size['height'], size['width']), np.uint8), *masks], axis=0)

    return [Sample(root / split / each['file_name'], partial(labels, key)) for key, each in sorted(coco.imgs.items())]


DATA: dict[str, tuple[Callable[[Path, bool], list[Sample]], int]] = {'camvid': (camvid, 11), 'nuclei': (nuclei, 2)}
