"""Data Science Bowl 2018, nuclei under microscopes: folders of masks -> a COCO set."""

from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import cv2
import mmcv

from mmsec.datasets.coco import instance, write_instances
from mmsec.errors import InputError

_VAL_SHARE = 5  # one image in so many


class Written(NamedTuple):
    """What was written of a split.

    Attributes:
        images (int): Images.
        nuclei (int): Their annotated nuclei.
        empty (int): Masks without a pixel, which were left out.
    """

    images: int
    nuclei: int
    empty: int


def convert_nuclei(source: str | Path, out: str | Path) -> dict[str, Written]:
    """Write the training images of stage 1 as a COCO set.

    ``out`` gets ``train/``, ``val/`` (JPEG, quality 95) and ``annotations/{train,val}.json`` (one category, masks as
    compressed run lengths). A checksum of its id says whether an image is for training or validation, a fifth of them
    for validation, so that more images move none to the other split.

    Args:
        source (str | Path): Folder with ``stage1_train/<id>/images/<id>.png`` and ``stage1_train/<id>/masks/*.png``,
            one mask for each nucleus.
        out (str | Path): Folder, made if need be; files of the same names are overwritten.

    Returns:
        dict[str, Written]: Counts for 'train' and 'val'.

    Raises:
        InputError: If the layout is another, a file cannot be read, or a mask is not as large as its image.
    """
    root = Path(source) / 'stage1_train'
    folders = sorted(path for path in root.glob('*') if path.is_dir())
    if not folders:
        raise InputError(
            f"'{root}' has no folders. Expected stage1_train/<id>/images/<id>.png and stage1_train/<id>/masks/*.png, "
            'as stage1_train.zip of the Data Science Bowl 2018 unpacks'
        )
    splits: dict[str, list[Path]] = {'train': [], 'val': []}
    for folder in folders:
        splits['val' if crc32(folder.name.encode()) % _VAL_SHARE == 0 else 'train'].append(folder)
    return {split: _convert(chosen, Path(out), split) for split, chosen in splits.items()}


def _convert(folders: list[Path], out: Path, split: str) -> Written:
    """Write the images of a split and their annotation file."""
    (out / split).mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    empty = 0
    for image_id, folder in enumerate(folders, start=1):
        found = sorted((folder / 'images').glob('*.png'))
        masks = sorted((folder / 'masks').glob('*.png'))
        if len(found) != 1 or not masks:
            raise InputError(
                f"'{folder}' has {len(found)} images and {len(masks)} masks. Expected one image in images/, and in "
                'masks/ one mask for each nucleus'
            )
        image = _read(found[0], cv2.IMREAD_COLOR)
        name = f'{folder.name}.jpg'
        mmcv.imwrite(image, str(out / split / name), (cv2.IMWRITE_JPEG_QUALITY, 95))
        height, width = image.shape[:2]
        images.append({'id': image_id, 'file_name': name, 'height': height, 'width': width})
        for path in masks:
            mask = _read(path, cv2.IMREAD_GRAYSCALE) > 0
            if mask.shape != (height, width):
                raise InputError(
                    f"mask '{path}' is {mask.shape[0]}x{mask.shape[1]}, its image {height}x{width}. Replace the file "
                    'by that of the original'
                )
            if mask.any():
                annotations.append(instance(mask, image_id, category_id=1))
            else:
                empty += 1
    write_instances(
        out / f'annotations/{split}.json',
        'Data Science Bowl 2018, stage 1 (BBBC038, CC0)',
        images,
        annotations,
        [{'id': 1, 'name': 'nucleus'}],
    )
    return Written(len(images), len(annotations), empty)


def _read(path: Path, flag: int) -> cv2.typing.MatLike:
    """An image file, decoded."""
    image = cv2.imread(str(path), flag)
    if image is None:
        raise InputError(f"'{path}' is not an image that can be read. Replace the file by that of the original")
    return image
