"""Generated scenes of overlapping, textured shapes, written as a COCO set and as an ADE20K-style set.

A class is an outline and a texture. Colours, sizes and slants tell nothing, and the ground wears the same textures.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import mmcv
import numpy as np

from mmsec.datasets.coco import instance, write_instances

CLASSES = ('disc', 'square', 'triangle', 'star')
SEGMENTATION_CLASSES = ('ground', *CLASSES)

_TEXTURES = ('dots', 'checks', 'stripes', 'clouds')  # of the classes, in their order
_MIN_VISIBLE = 0.6
_MIN_CONTRAST = 60  # between the mean colours of a shape and of the ground, as a distance in RGB


class Scene(NamedTuple):
    """A generated image and what is in it.

    Attributes:
        image (np.ndarray): (S, S, 3) uint8, BGR.
        labels (np.ndarray): (n,) int64 indices into :data:`CLASSES`, the farthest shape first.
        masks (np.ndarray): (n, S, S) bool, the visible part of each shape; they do not overlap.
    """

    image: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def make_scene(rng: np.random.Generator, size: int = 128) -> Scene:
    """Draw two to four shapes, partly hiding each other, on textured ground of ``size`` x ``size`` pixels.

    At least 60 % of every shape stays visible, and shapes stand upright, give or take 30 degrees. Equal states of the
    generator give equal scenes.
    """
    image = _texture(rng, size, rng.choice(_TEXTURES), colors=(80, 160), contrast=(10, 40))
    ground = image.mean((0, 1))
    labels: list[int] = []
    outlines: list[np.ndarray] = []  # whole shapes, (S, S) bool
    visible: list[np.ndarray] = []
    wanted = int(rng.integers(2, 5))
    while len(labels) < wanted:
        label = int(rng.integers(len(CLASSES)))
        outline = _outline(rng, label, size)
        texture = _texture(rng, size, _TEXTURES[label], colors=(20, 180), contrast=(90, 150))
        if np.linalg.norm(texture.mean((0, 1)) - ground) < _MIN_CONTRAST:
            continue
        left = [mask & ~outline for mask in visible]
        if any(mask.sum() < _MIN_VISIBLE * whole.sum() for mask, whole in zip(left, outlines, strict=True)):
            continue
        image = np.where(outline[..., None], texture, image)
        labels.append(label)
        outlines.append(outline)
        visible = [*left, outline]
    noisy = image + rng.normal(0, 6, image.shape)
    return Scene(noisy.clip(0, 255).astype(np.uint8), np.array(labels), np.stack(visible))


def _outline(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    """A filled shape, wholly inside the image, as an (S, S) bool mask."""
    radius = rng.uniform(0.17, 0.3) * size
    center = rng.uniform(radius, size - radius, 2)
    turn = rng.uniform(-np.pi / 6, np.pi / 6)
    corners, spokes = {
        'disc': (48, (1.0,)),
        'square': (4, (1.0,)),
        'triangle': (3, (1.0,)),
        'star': (10, (1.0, 0.45)),
    }[CLASSES[label]]
    upright = np.pi / 4 if corners == 4 else -np.pi / 2  # a square stands on a side, the others point up
    angles = upright + turn + 2 * np.pi * np.arange(corners) / corners
    reach = radius * np.resize(spokes, corners)
    points = center + np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None]
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def _texture(
    rng: np.random.Generator, size: int, kind: str, colors: tuple[int, int], contrast: tuple[float, float]
) -> np.ndarray:
    """An (S, S, 3) float image of one of :data:`_TEXTURES`, of two colours.

    The darker one's channels are drawn from ``colors``, the distance in RGB to the lighter one from ``contrast``.
    """
    dark = rng.uniform(*colors, 3)
    lighter = rng.uniform(0.3, 1.0, 3)
    lighter *= rng.uniform(*contrast) / np.linalg.norm(lighter)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    turn = rng.uniform(0, np.pi)
    period = rng.uniform(6, 14)
    u = 2 * np.pi / period * (x * np.cos(turn) + y * np.sin(turn))
    v = 2 * np.pi / period * (y * np.cos(turn) - x * np.sin(turn))
    if kind == 'stripes':
        blend = np.sin(u) > 0
    elif kind == 'checks':
        blend = np.sin(u) * np.sin(v) > 0
    elif kind == 'dots':
        blend = np.cos(u) + np.cos(v) > 0.8
    else:
        blend = cv2.resize(rng.random((6, 6)), (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    return dark + lighter * blend.astype(np.float64)[..., None]


def write_shapes(out: str | Path, train: int, val: int, seed: int = 0, size: int = 128) -> None:
    """Write the same scenes as two data sets.

    ``out/coco`` holds ``train2017/``, ``val2017/`` and ``annotations/instances_{train,val}2017.json`` (masks as
    compressed RLE); ``out/ade`` holds ``images/{training,validation}/`` and ``annotations/{training,validation}/``,
    where 0 means unlabelled and 1 is the first of :data:`SEGMENTATION_CLASSES`.

    Args:
        out (str | Path): Folder, made if need be; files of the same names are overwritten.
        train (int): Training images.
        val (int): Validation images.
        seed (int): Equal seeds give equal data. Default: 0.
        size (int): Side of the square images in pixels. Default: 128.

    Raises:
        ValueError: If a count is below 1, ``size`` below 32, or ``seed`` negative.
    """
    for name, value, least in (('train', train, 1), ('val', val, 1), ('seed', seed, 0), ('size', size, 32)):
        if value < least:
            raise ValueError(f'{name} must be at least {least}, got {value}')
    coco, ade = Path(out) / 'coco', Path(out) / 'ade'
    categories = [{'id': i, 'name': name, 'supercategory': 'shape'} for i, name in enumerate(CLASSES, start=1)]
    first_id = 1
    for split, (coco_split, ade_split, count) in enumerate(
        (('train2017', 'training', train), ('val2017', 'validation', val))
    ):
        folders = coco / coco_split, ade / 'images' / ade_split, ade / 'annotations' / ade_split
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        images: list[dict] = []
        annotations: list[dict] = []
        for image_id in range(first_id, first_id + count):
            scene = make_scene(np.random.default_rng((seed, split, image_id)), size)
            name = f'{image_id:012d}'
            jpeg = cv2.imencode('.jpg', scene.image, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()
            (folders[0] / f'{name}.jpg').write_bytes(jpeg)
            (folders[1] / f'{name}.jpg').write_bytes(jpeg)
            mmcv.imwrite(_label_map(scene), str(folders[2] / f'{name}.png'))
            images.append({'id': image_id, 'file_name': f'{name}.jpg', 'height': size, 'width': size})
            for label, mask in zip(scene.labels, scene.masks, strict=True):
                annotations.append(instance(mask, image_id, category_id=int(label) + 1))
        first_id += count
        path = coco / f'annotations/instances_{coco_split}.json'
        write_instances(path, f'mmsec shapes, seed {seed}', images, annotations, categories)


def _label_map(scene: Scene) -> np.ndarray:
    """(S, S) uint8: 1 for the ground, 2 and up for the shapes."""
    labels = np.ones(scene.masks.shape[1:], np.uint8)
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        labels[mask] = 2 + label
    return labels
