import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadAnnotations

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


def test_a_label_map_of_another_size_is_left_out(tmp_path, log):
    labels = dict(type=LoadAnnotations, with_bbox=False, with_label=False, with_seg=True)  # hosts have others
    load = TRANSFORMS.build(dict(type='mmsec.SkipBroken', transforms=[dict(type='LoadImageFromFile'), labels]))
    for size, wanted in ((6, True), (5, False)):
        image, label = str(tmp_path / 'i.png'), str(tmp_path / 'l.png')
        cv2.imwrite(image, picture(4, 6, 3))
        cv2.imwrite(label, picture(4, size))
        assert (load(dict(img_path=image, seg_map_path=label, seg_fields=[], with_seg=True)) is not None) == wanted, log
