import json
from zlib import crc32

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from pycocotools.coco import COCO

from mmsec.datasets.nuclei import convert_nuclei
from mmsec.errors import InputError
from tests.conftest import ROOT, error_here, run_here


def write(root, name, image, masks):
    """One image in the original layout."""
    for kind in ('images', 'masks'):
        (root / 'stage1_train' / name / kind).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / f'stage1_train/{name}/images/{name}.png'), image)
    for i, mask in enumerate(masks):
        cv2.imwrite(str(root / f'stage1_train/{name}/masks/{i}.png'), mask)


@pytest.fixture
def original(tmp_path):
    """Twelve images with transparency, as the original has it, of two nuclei each."""
    root = tmp_path / 'original'
    for i in range(12):
        image = np.full((20, 30, 4), (10 * i, 60, 90, 255), np.uint8)
        masks = np.zeros((2, 20, 30), np.uint8)
        masks[0, 2:6, 1 : 4 + i] = 255
        masks[1, 10:15, 20:29] = 255
        masks[1, 18, 0] = 255  # a part of the same nucleus
        write(root, f'id{i}', image, masks)
    return root


def test_images_and_masks_become_a_coco_set(original, tmp_path):
    out = tmp_path / 'out'
    written = convert_nuclei(original, out)
    names = set()
    for split in ('train', 'val'):
        coco = COCO(out / f'annotations/{split}.json')
        assert (len(coco.imgs), len(coco.anns), 0) == written[split]
        assert [each['name'] for each in coco.cats.values()] == ['nucleus']
        for image in coco.imgs.values():
            name = image['file_name'].removesuffix('.jpg')
            names.add(name)
            i = int(name[2:])
            assert (crc32(name.encode()) % 5 == 0) == (split == 'val')
            assert abs(cv2.imread(str(out / split / image['file_name'])).mean((0, 1)) - (10 * i, 60, 90)).max() < 4
            first, second = (coco.anns[each] for each in coco.getAnnIds(image['id']))
            assert first['bbox'] == [1, 2, 3 + i, 4]
            wanted = np.zeros((image['height'], image['width']), np.uint8)
            wanted[10:15, 20:29] = wanted[18, 0] = 1
            assert np.array_equal(coco.annToMask(second), wanted)
            assert second['area'] == wanted.sum()
    assert names == {f'id{i}' for i in range(12)}
    assert all(count.images for count in written.values())


def test_an_image_that_cannot_be_written_is_an_error(original, tmp_path):
    for split in ('train', 'val'):
        (tmp_path / 'out' / split / 'id3.jpg').mkdir(parents=True)
    with pytest.raises(OSError, match=r'id3\.jpg'):
        convert_nuclei(original, tmp_path / 'out')


def test_a_mask_without_a_pixel_is_left_out_and_counted(tmp_path):
    masks = np.zeros((2, 8, 9), np.uint8)
    masks[0, 3, 3] = 255
    write(tmp_path / 'original', 'a', np.zeros((8, 9, 3), np.uint8), masks)
    written = convert_nuclei(tmp_path / 'original', tmp_path / 'out')
    assert sum(each.nuclei for each in written.values()) == 1
    assert sum(each.empty for each in written.values()) == 1


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda at: (at / 'images/id3.png').unlink(), r"id3' has 0 images and 2 masks\. Expected one image"),
        (lambda at: [mask.unlink() for mask in at.glob('masks/*')], r"id3' has 1 images and 0 masks"),
        (lambda at: (at / 'images/id3.png').write_bytes(b'no'), r"id3\.png' is not an image that can be read"),
        (
            lambda at: cv2.imwrite(str(at / 'masks/0.png'), np.zeros((9, 9), np.uint8)),
            r"masks/0\.png' is 9x9, its image 20x30",
        ),
    ],
)
def test_what_is_not_as_in_the_original_is_named(original, tmp_path, damage, message):
    damage(original / 'stage1_train/id3')
    with pytest.raises(InputError, match=message):
        convert_nuclei(original, tmp_path / 'out')


def test_the_tool_writes_what_the_config_reads(original, tmp_path):
    result = run_here('dataset_converters/nuclei.py', original, tmp_path / 'nuclei')
    assert sum(int(line.split()[3]) for line in result.stdout.splitlines() if ' nuclei in ' in line) == 24
    cfg = Config.fromfile(ROOT / 'configs/mmdet/secvit_t_maskrcnn_nuclei.py')
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset
        content = json.loads((tmp_path / 'nuclei' / dataset.ann_file).read_text())
        for image in content['images']:
            assert (tmp_path / 'nuclei' / dataset.data_prefix.img / image['file_name']).is_file()
        assert [each['name'] for each in content['categories']] == list(dataset.metainfo.classes)

    assert 'has no folders. Expected stage1_train' in error_here('dataset_converters/nuclei.py', tmp_path, tmp_path)
