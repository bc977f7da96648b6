import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from mmsec.datasets.shapes import CLASSES, SEGMENTATION_CLASSES, make_scene, write_shapes


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def test_equal_seeds_give_equal_data_and_other_seeds_other(tmp_path):
    for name, seed in (('a', 5), ('b', 5), ('c', 6)):
        write_shapes(tmp_path / name, train=2, val=1, seed=seed, size=48)
    a, b, c = (files(tmp_path / name) for name in 'abc')
    assert a == b
    assert a.keys() == c.keys()
    assert a != c


def test_a_label_map_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / 'ade/annotations/training/000000000001.png').mkdir(parents=True)
    with pytest.raises(OSError, match=r'000000000001\.png'):
        write_shapes(tmp_path, train=1, val=1)


def test_scenes_hold_visible_shapes_that_hide_each_other():
    hidden = 0
    labels = set()
    for seed in range(40):
        scene = make_scene(np.random.default_rng(seed), 96)
        assert 2 <= len(scene.labels) <= 4
        assert scene.image.shape == (96, 96, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.sum(0).max() == 1
        labels |= set(scene.labels.tolist())
        boxes = [rle.toBbox(rle.encode(np.asfortranarray(m, dtype=np.uint8))) for m in scene.masks]
        for i, (x, y, w, h) in enumerate(boxes):
            assert scene.masks[i].sum() > 30
            hidden += scene.masks[i + 1 :, int(y) : int(y + h), int(x) : int(x + w)].any()
    assert labels == set(range(len(CLASSES)))
    assert hidden > 20


def test_train_and_val_share_no_image(shapes):
    train = {path.read_bytes() for path in (shapes / 'coco/train2017').iterdir()}
    val = {path.read_bytes() for path in (shapes / 'coco/val2017').iterdir()}
    assert len(train) == 8
    assert len(val) == 4
    assert not train & val


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_set_is_whole(shapes, split, recwarn):
    path = shapes / f'coco/annotations/instances_{split}2017.json'
    coco = COCO(path)
    assert not recwarn.list
    assert [category['name'] for category in coco.dataset['categories']] == list(CLASSES)
    assert len({image['id'] for image in coco.dataset['images']}) == len(coco.imgs)
    assert len({annotation['id'] for annotation in coco.dataset['annotations']}) == len(coco.anns)
    for image in coco.dataset['images']:
        pixels = cv2.imread(str(shapes / f'coco/{split}2017' / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3)
        assert coco.getAnnIds(imgIds=image['id'])
    for annotation in coco.dataset['annotations']:
        mask = coco.annToMask(annotation)
        assert annotation['area'] == mask.sum()
        rows, columns = np.nonzero(mask)
        x, y, w, h = annotation['bbox']
        assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_both_layouts_show_the_same_scenes(shapes):
    content = json.loads((shapes / 'coco/annotations/instances_val2017.json').read_text())
    for image in content['images']:
        name = image['file_name']
        assert (shapes / 'coco/val2017' / name).read_bytes() == (shapes / 'ade/images/validation' / name).read_bytes()
        path = shapes / 'ade/annotations/validation' / name.replace('jpg', 'png')
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        expected = np.ones_like(labels)
        for annotation in content['annotations']:
            if annotation['image_id'] == image['id']:
                expected[rle.decode(annotation['segmentation']).astype(bool)] = annotation['category_id'] + 1
        assert np.array_equal(labels, expected)
        assert labels.max() <= len(SEGMENTATION_CLASSES)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(train=0), 'train must be at least 1, got 0'),
        (dict(val=-1), 'val must be at least 1, got -1'),
        (dict(seed=-1), 'seed must be at least 0, got -1'),
        (dict(size=8), 'size must be at least 32, got 8'),
    ],
)
def test_unusable_numbers_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_shapes(tmp_path, **{'train': 1, 'val': 1, **options})
