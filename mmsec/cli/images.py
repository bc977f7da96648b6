"""Paths on a command line -> images, and a name for what is drawn of each; for the tools that take images."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from mmsec.errors import InputError
from mmsec.visualization.names import picture_names

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def find_images(inputs: Sequence[str]) -> dict[Path, Path]:
    """The images that files, folders (with what is in them) and glob patterns name; refuses one that names nothing.

    To each image, listed once, there is a name for what is made of it (:mod:`mmsec.visualization.names`).
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
    """Refuse a folder where files with the names of :func:`find_images` and an ending would replace the images."""
    inputs = {path.resolve() for path in images}
    for name in images.values():
        if (out / f'{name}{ending}').resolve() in inputs:
            raise InputError(f"--out '{out}': '{out / f'{name}{ending}'}' is one of the images; choose another folder")
