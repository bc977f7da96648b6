"""A sheet for each image of a command line; for the tools that draw what a backbone does with its tokens."""

import sys
from collections.abc import Callable
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import BaseDataElement
from mmengine.utils import track_iter_progress
from torch import Tensor

from mmsec.datasets.image_files import read_image
from mmsec.errors import InputError
from mmsec.visualization.drawing import as_seen


def write_sheets(
    images: dict[Path, Path],
    out: Path,
    preprocessor: BaseDataPreprocessor,
    channels: int,
    draw: Callable[[np.ndarray, Tensor], np.ndarray],
) -> None:
    """Draw and write; images that cannot be read are named on stderr, and the exit code is then 1.

    Args:
        images (dict[Path, Path]): From :func:`mmsec.cli.images.find_images`.
        out (Path): Folder for the sheets, a PNG an image.
        preprocessor (BaseDataPreprocessor): The model's.
        channels (int): Of the images that the backbone takes.
        draw (Callable): (H, W, 3) uint8 RGB image and the backbone's input (1, channels, H', W') -> a sheet, uint8 RGB.
    """
    failed = 0
    for path, name in track_iter_progress(list(images.items())) if len(images) > 3 else images.items():
        try:
            pixels = read_image(path, channels)
        except InputError as error:
            print(f'error: {error}', file=sys.stderr)
            failed += 1
            continue
        sample = {'inputs': torch.from_numpy(pixels).permute(2, 0, 1), 'data_samples': BaseDataElement()}
        mmcv.imwrite(draw(*as_seen(preprocessor, sample))[..., ::-1], str(out / f'{name}.png'))
        if len(images) <= 3:
            print(out / f'{name}.png')
    print(f'{len(images) - failed} sheets in {out}')
    if failed:
        sys.exit(1)
