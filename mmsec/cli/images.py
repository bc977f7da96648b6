"""Paths on a command line -> images, and a name for what is drawn of each; for the tools that take images."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np

from mmsec.errors import InputError
from mmsec.visualization.names import picture_names

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def find_images(inputs: Sequence[str]) -> dict[Path, Path]:
    """List the images that files, folders and glob patterns name.

    Args:
        inputs (Sequence[str]): Image files, folders (searched with what is in them), and patterns such as
            ``'photos/*.jpg'``.

    Returns:
        dict[Path, Path]: To each image, listed once, a name for what is made of it; see
        :func:`mmsec.visualization.names.picture_names`.

    Raises:
        InputError: If an input names nothing.
    """
    found: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            inside = sorted(each for each in path.rglob('*') if each.suffix.lower() in SUFFIXES)
        else:
            inside = [path] if path.exists() else [Path(each) for each in sorted(glob.glob(name, recursive=True))]
        if not inside:
            wanted = f"no image in folder '{name}' ({', '.join(SUFFIXES)})" if path.is_dir() else f"'{name}' not found"
            raise InputError(wanted)
        found += inside
    places: dict[str, Path] = {}
    for path in found:
        places.setdefault(os.path.abspath(path), path)  # once each
    return picture_names(places.values())


def check_outputs(images: dict[Path, Path], out: Path, ending: str = '.png') -> None:
    """Refuse to write over the images that are read.

    Args:
        images (dict[Path, Path]): As :func:`find_images` gives them.
        out (Path): Folder that is written to.
        ending (str): What follows the name of each file that is written. Default: '.png'.

    Raises:
        InputError: If an image would be written over.
    """
    inputs = {path.resolve() for path in images}
    for name in images.values():
        if (out / f'{name}{ending}').resolve() in inputs:
            raise InputError(f"--out '{out}': '{out / f'{name}{ending}'}' is one of the images; choose another folder")


def read_image(path: Path) -> np.ndarray | None:
    """Read an image as (H, W, 3) uint8, BGR, or None if it cannot be read."""
    try:
        return mmcv.imread(str(path)) if path.is_file() else None
    except (OSError, cv2.error):  # the latter for an empty file
        return None
