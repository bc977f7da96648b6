import json
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from mmsec.engine.hooks import BrokenDataHook, broken_data
from mmsec.errors import InputError
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
    loader = types.SimpleNamespace(dataset=wrapped, batch_size=5)
    return types.SimpleNamespace(train_dataloader=loader, logger=Log(), iter=0)


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


def count_on_two_processes(rank, folder):
    """What a process of two sees of 400 images of which some are broken, in batches of two."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    load = TRANSFORMS.build(dict(type='mmsec.SkipBroken', transforms=[]))
    runner = runner_with(load, num_images=400)
    runner.train_dataloader.batch_size = 2
    hook = BrokenDataHook(max_share=0.01)
    hook.before_train(runner)
    ended = 'with all iterations'
    collectives = []
    hook_all_reduce = broken_data.all_reduce
    broken_data.all_reduce = lambda total: (collectives.append(runner.iter), hook_all_reduce(total))
    try:
        for runner.iter in range(100):  # an epoch of each process
            if runner.iter < 3:  # 3 of 400 are put up with, though all are of one process
                load.count.value += rank
            if runner.iter in (61, 62):  # 5 are not
                load.count.value += 1 - rank
            hook.after_train_iter(runner, 0, {'data_samples': [None] * 2})
    except InputError as error:
        ended = str(error)
    (Path(folder) / str(rank)).write_text(json.dumps([runner.iter, collectives, ended]))
    torch.distributed.destroy_process_group()


def test_broken_samples_are_counted_over_all_processes_which_stop_together(tmp_path):
    torch.multiprocessing.spawn(count_on_two_processes, (str(tmp_path),), nprocs=2)
    one, two = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert one == two
    assert one[0] == 64  # the first moment after iteration 62 at which the counts are added up
    assert one[1] == list(range(4, 65, 5))
    assert one[2].startswith('5 samples were broken and left out, more than 1.0% of the 400 of an epoch')


def check_boxes_on_two_processes(rank, folder):
    """One process reads the file, the other learns what it found."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    load = TRANSFORMS.build(dict(type='mmsec.SkipBroken', transforms=[]))
    try:
        BrokenDataHook().before_train(runner_with(load, ann_file=f'{folder}/a.json'))
    except InputError as error:
        (Path(folder) / str(rank)).write_text(str(error))
    torch.distributed.destroy_process_group()


def test_boxes_outside_their_images_stop_all_processes(tmp_path):
    content = {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 10, 'height': 8}],
        'annotations': [{'id': 1, 'image_id': 1, 'bbox': [10, 0, 4, 4]}],
    }
    (tmp_path / 'a.json').write_text(json.dumps(content))
    torch.multiprocessing.spawn(check_boxes_on_two_processes, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        assert '1 of 1 boxes lie outside' in (tmp_path / str(rank)).read_text()


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
