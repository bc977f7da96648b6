import json
import types

import cv2
import numpy as np
import pytest

from mmsec.errors import InputError
from mmsec.hooks import BrokenDataHook
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


def test_a_label_map_of_another_size_is_left_out(tmp_path, log):
    load = TRANSFORMS.build(
        dict(
            type='mmsec.SkipBroken',
            transforms=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=False, with_label=False, with_seg=True),
            ],
        )
    )
    for size, wanted in ((6, True), (5, False)):
        cv2.imwrite(str(tmp_path / 'i.png'), picture(4, 6, 3))
        cv2.imwrite(str(tmp_path / 'l.png'), picture(4, size))
        results = {
            'img_path': str(tmp_path / 'i.png'),
            'seg_map_path': str(tmp_path / 'l.png'),
            'seg_fields': [],
            'with_seg': True,
        }
        assert (load(results) is not None) == wanted, log


class Log(list):
    def __getattr__(self, level):
        return self.append


class Wrapped:
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


def runner_with(load, num_images=10, ann_file='none'):
    dataset = types.SimpleNamespace(pipeline=types.SimpleNamespace(transforms=[load]), ann_file=str(ann_file))
    wrapped = Wrapped(num_images)
    wrapped.dataset = dataset
    loader = types.SimpleNamespace(dataset=wrapped)
    return types.SimpleNamespace(train_dataloader=loader, logger=Log())


def test_a_run_stops_when_too_much_of_an_epoch_is_broken(load):
    runner = runner_with(load)
    hook = BrokenDataHook(max_share=0.2)
    load.count.value = 5  # of an earlier run
    hook.before_train(runner)
    batch = {'data_samples': [None] * 5}
    for _ in range(2):  # two of ten an epoch are put up with, in each epoch
        load.count.value += 2
        hook.after_train_iter(runner, 0, batch)
        hook.after_train_iter(runner, 1, batch)
    assert runner.logger == ['2 of the last 10 samples were broken and left out'] * 2
    load.count.value += 3
    with pytest.raises(InputError, match=r'3 samples were broken.*more than 20\.0% of the 10'):
        hook.after_train_iter(runner, 0, batch)


def test_boxes_outside_their_images_are_named_and_too_many_stop_the_run(load, tmp_path):
    content = {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 10, 'height': 8}],
        'annotations': [
            {'id': 1, 'image_id': 1, 'bbox': [0, 0, 4, 4]},
            {'id': 2, 'image_id': 1, 'bbox': [9, 7, 40, 40]},  # a corner is inside
            {'id': 3, 'image_id': 1, 'bbox': [10, 0, 4, 4]},
        ],
    }
    file = tmp_path / 'a.json'
    file.write_text(json.dumps(content))
    runner = runner_with(load, ann_file=file)
    BrokenDataHook(max_share=0.5).before_train(runner)
    assert len(runner.logger) == 2
    assert 'annotation 3 left out, its box [10, 0, 4, 4] lies outside image a.jpg of 10x8' in runner.logger[0]
    with pytest.raises(InputError, match='1 of 3 boxes lie outside'):
        BrokenDataHook(max_share=0.1).before_train(runner)


def test_annotations_of_another_format_are_left_alone(load, tmp_path):
    (tmp_path / 'a.json').write_text('{"metainfo": {}, "data_list": []}')
    BrokenDataHook().before_train(runner_with(load, ann_file=tmp_path / 'a.json'))


def test_a_share_is_a_share():
    with pytest.raises(ValueError, match='max_share must be between 0 and 1, got 3'):
        BrokenDataHook(max_share=3)
