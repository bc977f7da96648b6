"""COCO's annotation files, as converters and generators write them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocotools import mask as rle


def instance(mask: np.ndarray, image_id: int, category_id: int) -> dict:
    """Make the annotation of one object, its mask as compressed run lengths.

    Args:
        mask (np.ndarray): (H, W) bool, True at the object's pixels.
        image_id (int): Of the image it is in.
        category_id (int): Of what it is.

    Returns:
        dict: The annotation without its ``id``, which :func:`write_instances` gives.
    """
    code = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        'image_id': image_id,
        'category_id': category_id,
        'bbox': rle.toBbox(code).tolist(),
        'area': int(rle.area(code)),
        'segmentation': {'size': list(code['size']), 'counts': code['counts'].decode('ascii')},
        'iscrowd': 0,
    }


def write_instances(
    path: Path, description: str, images: Sequence[dict], annotations: Sequence[dict], categories: Sequence[dict]
) -> None:
    """Write an annotation file of :func:`instance`'s annotations, and make its folder if need be."""
    content = {
        'info': {'description': description},
        'licenses': [],
        'images': list(images),
        'annotations': [{'id': i} | each for i, each in enumerate(annotations, start=1)],
        'categories': list(categories),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, allow_nan=False))
