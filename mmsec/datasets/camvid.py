"""CamVid in the form of SegNet's tutorial, 11 classes of streets: its folders -> those that mmsegmentation reads."""

from pathlib import Path

import cv2
import mmcv
import numpy as np

from mmsec.errors import InputError

SPLITS = ('train', 'val', 'test')
_CLASSES = 11
_IGNORED = 255


def convert_camvid(source: str | Path, out: str | Path) -> dict[str, int]:
    """Write the three splits as images and label maps.

    ``out`` gets ``images/{train,val,test}/`` (JPEG, quality 90) and ``annotations/{train,val,test}/`` (PNG): 0 sky, 1
    building, 2 pole, 3 road, 4 pavement, 5 tree, 6 sign, 7 fence, 8 car, 9 pedestrian, 10 bicyclist, and 255 for
    unlabelled, which is 11 in the original.

    Args:
        source (str | Path): Folder with ``{train,val,test}/*.png`` and ``{train,val,test}annot/*.png``.
        out (str | Path): Folder, made if need be; files of the same names are overwritten.

    Returns:
        dict[str, int]: Images of each split.

    Raises:
        InputError: If the layout or the labels are others, a file cannot be read, or a label map is missing or not as
            large as its image.
    """
    return {split: _convert(Path(source), Path(out), split) for split in SPLITS}


def _convert(source: Path, out: Path, split: str) -> int:
    """Write a split; the number of its images."""
    images = sorted((source / split).glob('*.png'))
    if not images:
        raise InputError(
            f"'{source / split}' has no PNG images. Expected {{train,val,test}}/*.png and "
            '{train,val,test}annot/*.png, as CamVid/ of the SegNet tutorial has them'
        )
    folders = out / 'images' / split, out / 'annotations' / split
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for path in images:
        image, labels = _read(path, 'color'), _read(source / f'{split}annot' / path.name, 'unchanged')
        if labels.shape != image.shape[:2]:
            raise InputError(f"label map of '{path}': expected {image.shape[:2]} labels, got shape {labels.shape}")
        if labels.max() > _CLASSES:
            raise InputError(
                f"label map of '{path}' has the label {labels.max()}, expected 0 to {_CLASSES}. Take the label maps of "
                'the SegNet tutorial; the 32 classes of the first release have others'
            )
        mmcv.imwrite(image, str(folders[0] / f'{path.stem}.jpg'), (cv2.IMWRITE_JPEG_QUALITY, 90))
        mmcv.imwrite(np.where(labels == _CLASSES, _IGNORED, labels).astype(np.uint8), str(folders[1] / path.name))
    return len(images)


def _read(path: Path, flag: str) -> np.ndarray:
    """An image file, decoded; numbers of a palette's colours stay numbers."""
    try:
        return mmcv.imread(path, flag, backend='pillow')
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be read as an image: {error}. Replace the file by that of the original"
        ) from error
