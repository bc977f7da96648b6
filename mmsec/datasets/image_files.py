"""Image files from outside: what is refused before a decoder sees it, in time and memory that their size bounds."""

import os
import re
import stat
import sys
import tempfile
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmsec.errors import InputError

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of ImageNet's RGB values from 0 to 255, by which all published weights were trained."""
_SETTING = os.environ.get('OPENCV_IO_MAX_IMAGE_PIXELS', '256MB').upper().removesuffix('B')
MAX_PIXELS = int(_SETTING.rstrip('KM')) * {'K': 2**10, 'M': 2**20}.get(_SETTING[-1], 1)
"""Pixels of the largest image that is read, 16384 x 16384 by default; OpenCV reads the same variable."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # label maps are read by Pillow
_MAX_BYTES = 16 * MAX_PIXELS  # what four channels of float32 take
# JPEG (ITU-T T.81, table B.1): segments start with a marker and, but for those listed here, their length.
_MARKER = re.compile(rb'\xff[^\x00\xff]')
_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}
_MAX_SEGMENTS = 2**14  # ahead of the first scan; a profile and a large preview take hundreds
_HOLE = 32  # zero bytes; a scan has as many only where the image is one colour
_MAX_SCANS = 100  # each is decoded over the whole image; encoders write a dozen
_IN_SCANS = np.isin(np.arange(256), [0, 0xC4, *range(0xD0, 0xD8), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE])


def check_image_file(path: str | Path) -> None:
    """Refuse what a decoder would wait for, choke on, or turn into a grey picture without a word.

    That is: pipes and devices, files and images above a size (:data:`MAX_PIXELS`), JPEG files that end early, have a
    hole, or have hundreds of scans. What follows the image of a JPEG file is not looked at: phones append videos and
    further images. Paths at which there is nothing, such as those of other storages, are left to who reads them.

    Raises:
        ValueError: What is wrong with the file.
        OSError: If it cannot be read.
    """
    if not os.path.exists(path):
        return
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError('it is no file but a folder, pipe or device')
    if status.st_size > _MAX_BYTES:
        raise ValueError(f'the file has {status.st_size} bytes; {_allowed(_MAX_BYTES, "bytes")}')
    with open(path, 'rb') as file:
        if file.read(2) == b'\xff\xd8':
            _check_jpeg(b'\xff\xd8' + file.read())
    try:
        with Image.open(path) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = 2 * MAX_PIXELS + 1  # or more
    except Exception:  # of a format that Pillow does not know, or broken: the decoder says so
        return
    if pixels > MAX_PIXELS:
        raise ValueError(f'the image has {pixels} pixels or more; {_allowed(MAX_PIXELS, "pixels")}')


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """Read an image as (H, W, channels): BGR for 3, grey for 1, for others as the file has it.

    Raises:
        InputError: If it cannot be read, or has other channels.
    """
    flag = {1: 'grayscale', 3: 'color'}.get(channels, 'unchanged')
    reason = 'no decoder takes it'
    try:
        check_image_file(path)
        image = mmcv.imread(str(path), flag=flag)
    except (OSError, ValueError, cv2.error) as error:  # the last for an empty file
        image, reason = None, reason if isinstance(error, cv2.error) else f'{error}'.splitlines()[0]
    if image is None:
        raise InputError(f"'{path}' is not an image that can be read: {reason}")
    image = np.atleast_3d(image)
    if image.shape[2] != channels:
        raise InputError(f"'{path}' is an image of {image.shape[2]} channels, the backbone takes {channels}")
    return image


def load_image(image: str | Path | Image.Image | np.ndarray) -> Tensor:
    """Make the input of a backbone of an image, as published weights want it.

    Args:
        image: A file, an image of Pillow, or (H, W, 3) uint8 RGB values.

    Returns:
        Tensor: (1, 3, H, W) float32, RGB, normalised by :data:`MEAN` and :data:`STD`, at the size of the image.

    Raises:
        InputError: If it is something else, or a file that cannot be read.
    """
    if isinstance(image, str | Path):
        pixels = read_image(Path(image))[..., ::-1]
    elif isinstance(image, Image.Image):
        pixels = np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    else:
        pixels = image
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        given = f'{getattr(pixels, "dtype", type(pixels).__name__)} {getattr(pixels, "shape", "")}'.strip()
        raise InputError(f'expected a path, a Pillow image or (H, W, 3) uint8 RGB values, got {given}')
    normalised = (torch.from_numpy(pixels.astype(np.float32)) - torch.tensor(MEAN)) / torch.tensor(STD)
    return normalised.permute(2, 0, 1)[None].contiguous()


def _allowed(most: int, unit: str) -> str:
    return f'at most {most} {unit} are read, set OPENCV_IO_MAX_IMAGE_PIXELS in the environment for more pixels'


def _check_jpeg(content: bytes) -> None:
    """Refuse a JPEG file that ends early or has a hole: OpenCV fills the rest with grey and says nothing.

    What precedes its first scan is skipped segment by segment, because a thumbnail in there has an end marker of its
    own.
    """
    position, marker = 2, 0
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(content, position)
        if not found:
            raise ValueError('the JPEG file ends early')
        marker, position = found[0][-1], found.end()
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(content[position : position + 2], 'big')
        if marker == _START_OF_SCAN:
            break
    else:
        raise ValueError('the JPEG file has no image')
    end = content.find(b'\xff\xd9', position)
    if end < 0:
        raise ValueError('the JPEG file ends early')
    if content.count(b'\xff\xda', position, end) > _MAX_SCANS:
        raise ValueError(f'the JPEG file has more than {_MAX_SCANS} scans')
    padded = position + len(content[position:end].rstrip(b'\0'))  # cameras may fill up their last block
    holed = _may_have_hole(content[position:padded])
    if (holed or end - padded >= _HOLE) and (said := _complaint(content)) and (holed or 'extraneous' not in said):
        raise ValueError(f'the JPEG file is damaged: {said}')


def _may_have_hole(scans: bytes) -> bool:
    """Whether scans hold what a hole reads as: many zeros, or a byte 0xff that is neither stuffed nor of a marker."""
    values = np.frombuffer(scans, np.uint8)
    behind = values[np.flatnonzero(values[:-1] == 0xFF) + 1]
    return bytes(_HOLE) in scans or not _IN_SCANS[behind].all()


def _complaint(content: bytes) -> str:
    """What libjpeg says of a file on stderr, which OpenCV does not hand on; decoded in small, as that is all we ask."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        try:
            os.dup2(written.fileno(), 2)
            cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        written.seek(0)
        lines = written.read().decode(errors='replace').splitlines(keepends=True)
    of_file = [line.strip() for line in lines if 'JPEG' in line]
    sys.stderr.writelines(line for line in lines if 'JPEG' not in line)  # what another thread wrote meanwhile
    return of_file[0] if of_file else ''
