import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadAnnotations

from mmsec.datasets.image_files import MAX_PIXELS
from mmsec.registry import TRANSFORMS


@pytest.fixture
def load():
    return TRANSFORMS.build(dict(type='mmsec.SkipBroken', transforms=[dict(type='LoadImageFromFile')]))


def picture(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


@pytest.mark.parametrize(
    ('name', 'image'),
    [
        ('pixel.jpg', picture(1, 1, 3)),
        ('grey.png', picture(5, 6)),
        ('alpha.png', picture(5, 6, 4)),
        ('deep.png', picture(5, 6, 3, dtype=np.uint16)),
    ],
)
def test_odd_images_load_as_three_channels_of_bytes(load, tmp_path, name, image):
    cv2.imwrite(str(tmp_path / name), image)
    loaded = load({'img_path': str(tmp_path / name)})['img']
    assert loaded.shape == (*image.shape[:2], 3)
    assert loaded.dtype == np.uint8
    assert load.count.value == 0


@pytest.mark.parametrize('damage', ['missing', 'empty', 'text', 'short jpg', 'short png', 'other size'])
def test_broken_images_are_left_out_named_and_counted(load, tmp_path, damage, log):
    path = tmp_path / f'image.{"png" if "png" in damage else "jpg"}'
    results = {'img_path': str(path)}
    if damage != 'missing':
        cv2.imwrite(str(path), picture(60, 70, 3))
        content = path.read_bytes()
        path.write_bytes({'empty': b'', 'text': b'no image'}.get(damage, content[: len(content) // 2]))
    if damage == 'other size':
        path.write_bytes(content)
        results.update(height=70, width=60)
    assert load(results) is None
    assert load.count.value == 1
    assert len(log) == 1
    assert log[0].startswith(f"sample left out, '{path}' is broken: ")


def with_thumbnail(image, thumbnail):
    """A JPEG file with another in an APP1 segment, as cameras write it."""
    segment = b'Exif\0\0' + thumbnail
    return image[:2] + b'\xff\xe1' + (len(segment) + 2).to_bytes(2, 'big') + segment + image[2:]


def jpeg(size, *options):
    return cv2.imencode('.jpg', picture(size, size, 3), options)[1].tobytes()


@pytest.mark.parametrize('progressive', [0, 1])
@pytest.mark.parametrize('thumbnail', [False, True])
@pytest.mark.parametrize('trailer', [0, 5 * 2**10, 2**20])
def test_a_whole_jpeg_loads_whatever_follows_it_and_a_truncated_one_does_not(
    load, tmp_path, log, trailer, thumbnail, progressive
):
    content = jpeg(80, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    if thumbnail:
        content = with_thumbnail(content, jpeg(16))
    path = tmp_path / 'phone.jpg'
    path.write_bytes(content + bytes(trailer))
    assert load({'img_path': str(path)}) is not None, log
    for cut in (len(content) - 1, len(content) * 3 // 4, len(content) - 4096):
        path.write_bytes(content[:cut])
        assert load({'img_path': str(path)}) is None, cut
        assert 'the JPEG file ends early' in log.pop()


def test_a_jpeg_that_ends_in_its_header_is_left_out(load, tmp_path, log):
    content = with_thumbnail(jpeg(80), jpeg(16))
    path = tmp_path / 'phone.jpg'
    for cut in (2, 3, 4, 5, 100, content.rindex(b'\xff\xda') + 1):
        path.write_bytes(content[:cut])
        assert load({'img_path': str(path)}) is None, cut
        assert 'the JPEG file ends early' in log.pop()


def holed(content, fill, size=512):
    """The file with a hole where its scans are, as a disk or a download leaves it."""
    begin = (content.rindex(b'\xff\xda') + len(content)) // 2 - size // 2
    return content[:begin] + fill * size + content[begin + size :]


@pytest.mark.parametrize('fill', [b'\0', b'\xff'])
@pytest.mark.parametrize('progressive', [0, 1])
@pytest.mark.parametrize('restarts', [0, 3])
def test_a_jpeg_with_a_hole_is_left_out(load, tmp_path, log, capfd, progressive, restarts, fill):
    options = (cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, restarts)
    path = tmp_path / 'holed.jpg'
    path.write_bytes(holed(jpeg(160, *options), fill))
    assert load({'img_path': str(path)}) is None
    assert 'the JPEG file is damaged: Corrupt JPEG data' in log.pop()
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('progressive', [0, 1])
def test_a_jpeg_with_many_zeros_or_filled_up_with_them_is_whole(load, tmp_path, log, progressive):
    options = (cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    flat = np.zeros((512, 512, 3), np.uint8)
    flat[:8] = picture(8, 512, 3)
    content = cv2.imencode('.jpg', flat, options)[1].tobytes()
    assert bytes(64) in content or progressive
    filled = jpeg(80, *options)
    filled = filled[:-2] + bytes(100) + filled[-2:]
    for each in (content, filled):
        (tmp_path / 'whole.jpg').write_bytes(each)
        assert load({'img_path': str(tmp_path / 'whole.jpg')}) is not None, log


def png_bomb(side):
    """A PNG file of a few bytes with an image of 1 bit a pixel."""
    chunks = b'IHDR' + struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0), b'IDAT' + zlib.compress(bytes(side)), b'IEND'
    framed = (struct.pack('>I', len(each) - 4) + each + struct.pack('>I', zlib.crc32(each)) for each in chunks)
    return b'\x89PNG\r\n\x1a\n' + b''.join(framed)


HOSTILE = {  # what lies at the path of an image or a label map -> what is said of it
    'only 0xff': (b'\xff\xd8' + b'\xff' * 2**20, 'ends early'),
    'only 0xff, then 0': (b'\xff\xd8' + b'\xff' * 2**20 + b'\0' * 2**20, 'ends early'),
    'markers alone': (b'\xff\xd8' + b'\xff\xd0' * 2**20, 'has no image'),
    'empty segments': (b'\xff\xd8' + b'\xff\xe0\0\0' * 2**20, 'has no image'),
    'only zeros': (b'\xff\xd8' + bytes(2**20), 'ends early'),
    'scans': (lambda path: path.write_bytes(jpeg(16)[:-2] + b'\xff\xda\0\x02' * 1000 + b'\xff\xd9'), '100 scans'),
    'pixels': (png_bomb(int(MAX_PIXELS**0.5) + 1), 'OPENCV_IO_MAX_IMAGE_PIXELS'),
    'twice the pixels': (png_bomb(2 * int(MAX_PIXELS**0.5)), 'OPENCV_IO_MAX_IMAGE_PIXELS'),
    'bytes': (lambda path: (path.touch(), os.truncate(path, 2**40)), 'OPENCV_IO_MAX_IMAGE_PIXELS'),
    'pipe': (os.mkfifo, 'no file'),
    'link to a pipe': (lambda path: (os.mkfifo(f'{path}.pipe'), path.symlink_to(f'{path}.pipe')), 'no file'),
    'link to a device': (lambda path: path.symlink_to('/dev/zero'), 'no file'),
    'link to itself': (lambda path: path.symlink_to(path), ''),
    'folder': (Path.mkdir, 'no file'),
}


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
@pytest.mark.parametrize('kind', HOSTILE)
def test_no_file_takes_time_or_memory_without_bounds(tmp_path, log, kind, key):
    paths = {name: tmp_path / f'{name}.jpg' for name in ('img_path', 'seg_map_path')}
    content, said = HOSTILE[kind]
    for name, path in paths.items():
        if name != key:
            path.write_bytes(jpeg(16))
        elif callable(content):
            content(path)
        else:
            path.write_bytes(content)
    labels = dict(type=LoadAnnotations, with_bbox=False, with_label=False, with_seg=True)
    load = TRANSFORMS.build(dict(type='mmsec.SkipBroken', transforms=[dict(type='LoadImageFromFile'), labels]))
    log.clear()
    assert load({name: str(path) for name, path in paths.items()} | dict(seg_fields=[])) is None
    assert len(log) == 1
    assert log[0].startswith('sample left out')
    assert said in log[0]


def test_a_label_map_of_another_size_is_left_out(tmp_path, log):
    labels = dict(type=LoadAnnotations, with_bbox=False, with_label=False, with_seg=True)  # hosts have others
    load = TRANSFORMS.build(dict(type='mmsec.SkipBroken', transforms=[dict(type='LoadImageFromFile'), labels]))
    for size, wanted in ((6, True), (5, False)):
        image, label = str(tmp_path / 'i.png'), str(tmp_path / 'l.png')
        cv2.imwrite(image, picture(4, 6, 3))
        cv2.imwrite(label, picture(4, size))
        assert (load(dict(img_path=image, seg_map_path=label, seg_fields=[], with_seg=True)) is not None) == wanted, log
