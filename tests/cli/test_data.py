"""Data that no run can use are refused before one starts, and what is left out is counted."""

import json
import re
import shutil
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmsec.cli import (
    data_sets,
    torchvision_apart,  # noqa: F401
)
from mmsec.cli.config import load_config
from mmsec.cli.data import check_data, check_paths, look_at_data
from mmsec.datasets.findings import table
from mmsec.errors import InputError
from tests.conftest import ROOT, small_run

DETECTOR = str(ROOT / 'configs/mmdet/secvit_t_maskrcnn.py')


def test_the_first_missing_data_path_is_named(tmp_path, shapes):
    cfg = load_config(DETECTOR, {f'{TRAIN}.data_root': str(tmp_path / 'absent')})
    with pytest.raises(InputError, match=r"train data: '.*absent' not found"):
        check_paths(cfg, 'train')
    cfg.train_dataloader.dataset.data_root = str(shapes / 'coco')
    check_paths(cfg, 'train')
    cfg.train_dataloader.dataset.ann_file = 'annotations/other.json'
    with pytest.raises(InputError, match=r"'.*other\.json' not found"):
        check_paths(cfg, 'train')
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
    with pytest.raises(InputError, match=r"'.*other\.json' not found"):
        check_paths(cfg, 'train')
    cfg.val_dataloader.dataset.data_root = str(shapes / 'coco')
    with pytest.raises(InputError, match=r"val data: 'data/coco/annotations/instances_val2017\.json' not found"):
        check_paths(cfg, 'val')


TRAIN, VAL = 'train_dataloader.dataset', 'val_dataloader.dataset'


def detector(shapes, folder, edit=lambda content: None, **options):
    """The demo's detector, whose training file is changed."""
    content = json.loads((shapes / 'coco/annotations/instances_train2017.json').read_text())
    edit(content)
    (folder / 'train.json').write_text(json.dumps(content))
    options = {f'{TRAIN}.ann_file': str(folder / 'train.json')} | options
    return load_config(str(small_run('mmdet/secvit_t_maskrcnn_shapes.py', shapes, folder)), options)


def segmenter(shapes, folder, edit=lambda folder: None, **options):
    """The demo's segmenter on a copy of its data, of which files are changed."""
    shutil.copytree(shapes / 'ade', folder / 'data/ade')
    edit(folder / 'data/ade')
    return load_config(str(small_run('mmseg/secvit_t_upernet_shapes.py', folder / 'data', folder)), options)


def counted(cfg, *splits, **options):
    """To each data set its images and usable annotations; nothing may be refused."""
    found = look_at_data(cfg, *splits, **options)
    assert [reason for each in found for reason in each.refused] == []
    return [(each.data.split()[0], each.left, sum(each.classes.values())) for each in found]


def refused(cfg, *splits, **options):
    return '\n'.join(reason for each in look_at_data(cfg, *splits, **options) for reason in each.refused)


def test_a_warm_up_that_is_too_long_hides_nothing_of_what_is_in_the_data(shapes, tmp_path):
    cfg = detector(shapes, tmp_path)
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=9000)]
    train, val = look_at_data(cfg, 'train', 'val')
    assert [reason.split(':')[0] for reason in train.refused + val.refused] == ['param_scheduler.0']
    assert all(each.classes for each in (train, val))


def test_what_is_in_the_data_is_counted(shapes, tmp_path):
    annotations = json.loads((shapes / 'coco/annotations/instances_val2017.json').read_text())['annotations']
    cfg = detector(shapes, tmp_path)
    (train, *_), (*val,) = counted(cfg, 'train', 'val')
    assert train == 'train'
    assert val == ['val', 4, len(annotations)]
    cfg = segmenter(shapes, tmp_path)
    maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (shapes / 'ade/annotations/validation').iterdir()]
    assert counted(cfg, 'val') == [('val', 4, sum(len({*np.unique(each)} - {0}) for each in maps))]


@pytest.mark.parametrize(
    'wrap',
    [
        lambda one: dict(type='RepeatDataset', times=3, dataset=one),
        lambda one: dict(type='ConcatDataset', datasets=[one, one]),
        lambda one: dict(type='ClassBalancedDataset', oversample_thr=0.5, dataset=one),
        lambda one: dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[one])),
        lambda one: dict(type='mmdet.MultiImageMixDataset', dataset=one, pipeline=[]),
    ],
)
def test_data_sets_inside_others_are_looked_at(shapes, tmp_path, wrap):
    cfg = detector(shapes, tmp_path, lambda content: content['annotations'][0].update(area=-1))
    cfg.train_dataloader.dataset = wrap(cfg.train_dataloader.dataset)
    found = look_at_data(cfg, 'train')
    assert all(each.left_out == {'have an area of 0 or less': ['annotation 1 of 000000000001.jpg']} for each in found)
    assert len(found) >= 1


@pytest.mark.parametrize(
    ('edit', 'options', 'message'),
    [
        (lambda c: c.update(categories=None), {}, "train.json': expected a list 'categories', got null"),
        (lambda c: [each.update(area=0) for each in c['annotations']], {}, 'more than 10%: .* have an area of 0'),
        (lambda c: c['annotations'][0].update(segmentation=[[1, 1, 1e9, 1, 1e9, 1e9]]), {}, 'a polygon with numbers'),
        (None, {f'{TRAIN}.data_prefix': dict(img='val2017/')}, 'samples that were looked at cannot be read'),
        (None, {f'{TRAIN}.data_prefix': dict(_delete_=True, img_path='')}, "data_prefix has no 'img'"),
        (None, {f'{TRAIN}.filter_cfg.min_size': 999}, 'no image is left of 8: 8 images smaller than'),
        (None, {f'{TRAIN}.metainfo': dict(classes='disc')}, "classes is 'disc', expected a tuple of names"),
        (None, {f'{TRAIN}.metainfo': dict(classes=())}, r'classes is \(\), expected a tuple of names'),
        (
            None,
            {f'{TRAIN}.metainfo': dict(classes=('cat', 'dog', 'pig', 'cow'))},
            "train.json': no category is called 'cat', 'dog', 'pig', 'cow'; the file has 'disc', 'square'",
        ),
        (
            None,
            {f'{VAL}.metainfo': dict(classes=('square', 'disc', 'triangle', 'star'))},
            'which is how mmdetection numbers them',
        ),
        (None, {'model.roi_head.bbox_head.num_classes': 9}, 'bbox_head.num_classes is 9, and train data .* 4 classes'),
    ],
)  # fmt: skip
def test_data_that_no_detector_can_use_are_refused(shapes, tmp_path, edit, options, message):
    cfg = detector(shapes, tmp_path, edit or (lambda content: None), **options)
    assert re.search(message, refused(cfg, 'train', 'val'))
    with pytest.raises(InputError, match=message):
        check_data(cfg, 'train', 'val')


def test_a_share_that_a_run_puts_up_with_is_that_of_its_hook(shapes, tmp_path):
    cfg = detector(shapes, tmp_path, lambda c: [each.update(area=0) for each in c['annotations'][::2]])
    assert 'max_share of mmsec.BrokenDataHook' in refused(cfg, 'train')
    next(hook for hook in cfg.custom_hooks if hook.type == 'mmsec.BrokenDataHook').max_share = 0.6
    assert refused(cfg, 'train') == ''


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda c: c['annotations'][0].pop('iscrowd'), "evaluator '.*' have no|have no 'iscrowd'"),
        (lambda c: c['annotations'][0].update(segmentation=[[1, 1, 9, 9]]), 'which pycocotools cannot read'),
        (lambda c: c['annotations'][0].update(segmentation={'size': [64, 64], 'counts': [10**9]}), 'do not add up'),
        (lambda c: [each.update(id=str(each['id'])) for each in c['annotations']], 'ids of annotations are texts'),
        (lambda c: c['categories'].reverse(), 'which is how mmdetection numbers them'),
        (lambda c: c['images'].pop(), 'it lacks 1 of the 4 images that are evaluated'),
        (lambda c: c.update(annotations=[]), 'no annotation is left of 0'),
    ],
)
def test_the_file_that_an_evaluator_reads_is_looked_at(shapes, tmp_path, edit, message):
    content = json.loads((shapes / 'coco/annotations/instances_val2017.json').read_text())
    edit(content)
    (tmp_path / 'val.json').write_text(json.dumps(content))
    cfg = detector(shapes, tmp_path, **{'val_evaluator.ann_file': str(tmp_path / 'val.json')})
    assert re.search(message, refused(cfg, 'val'))
    cfg = detector(
        shapes, tmp_path, **{'val_evaluator.ann_file': str(shapes / 'coco/annotations/instances_val2017.json')}
    )
    assert refused(cfg, 'val') == ''


def write_map(change, name='validation/000000000009'):
    """A function that changes the labels of a file."""

    def edit(folder):
        path = sorted((folder / 'annotations' / name.split('/')[0]).iterdir())[0]
        cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))

    return edit


@pytest.mark.parametrize(
    ('edit', 'options', 'message'),
    [
        (write_map(lambda labels: labels + 5), {}, 'beyond the 5 classes, which are 0 to 4 after reduce_zero'),
        (write_map(lambda labels: labels.astype(np.uint16) * 300), {}, 'have values beyond 255, which'),
        (write_map(lambda labels: np.stack([labels] * 3, -1)), {}, 'are pictures, expected one channel'),
        (write_map(lambda labels: labels[:9]), {}, 'the image is 64x64, the label map 9x64'),
        (lambda f: [each.unlink() for each in (f / 'images/validation').iterdir()], {}, 'which has no file'),
        (lambda f: [each.unlink() for each in (f / 'annotations/validation').iterdir()], {}, '4 of 4 samples'),
        (lambda f: next((f / 'images/validation').iterdir()).write_bytes(b'no image'), {}, '1 of 4 samples .* cannot'),
        (None, {f'{VAL}.img_suffix': '.png'}, r"no image '\*\.png' in '.*', which has 4 '\.jpg'"),
        (None, {f'{VAL}.seg_map_suffix': '_labels.png'}, '4 of 4 samples .* cannot be read'),
        (None, {'model.decode_head.num_classes': 2}, 'decode_head.num_classes is 2, and val data .* 5 classes'),
        (None, {'model.auxiliary_head.num_classes': 9}, 'model.auxiliary_head.num_classes is 9'),
        (
            lambda f: [cv2.imwrite(str(path), np.zeros((64, 64))) for path in (f / 'annotations/validation').iterdir()],
            {},
            'none of the 4 label maps that were looked at has a pixel of any class',
        ),
    ],
)  # fmt: skip
def test_data_that_no_segmenter_can_use_are_refused(shapes, tmp_path, edit, options, message):
    cfg = segmenter(shapes, tmp_path, edit or (lambda folder: None), **options)
    assert re.search(message, refused(cfg, 'val'))


def test_data_that_were_refused_before_they_were_looked_at_have_no_numbers(shapes, tmp_path):
    found = look_at_data(segmenter(shapes, tmp_path, **{'model.decode_head.num_classes': 2}), 'val')
    assert table(found).splitlines()[1].split()[:4] == ['-', '-', '-', 'val']


def test_label_maps_are_read_as_the_data_set_reads_them(shapes, tmp_path):
    ignored = write_map(lambda labels: np.where(labels == 1, 255, labels))
    assert counted(segmenter(shapes, tmp_path, ignored), 'val')
    cfg = segmenter(shapes, tmp_path / 'b', write_map(lambda labels: labels.astype(np.uint16)))  # 16 bits, but small
    assert counted(cfg, 'val')
    for step in cfg.val_dataloader.dataset.pipeline:
        step.pop('reduce_zero_label', None)
    cfg.val_dataloader.dataset.reduce_zero_label = False
    assert 'have labels beyond the 5 classes, which are 0 to 4, and 255 for no class (where 0 is' in refused(cfg, 'val')
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.ignore_index = 5
    assert refused(cfg, 'val') == ''


def test_a_broken_training_file_is_named_and_left_to_the_hook(shapes, tmp_path):
    edit = lambda folder: (folder / 'images/training/000000000001.jpg').write_bytes(b'no image')  # noqa: E731
    cfg = segmenter(shapes, tmp_path, edit, **{'custom_hooks.4.max_share': 0.5})
    (found,) = look_at_data(cfg, 'train')
    assert found.refused == []
    assert '000000000001.jpg' in found.left_out['are broken'][0]
    cfg.train_dataloader.dataset.pipeline[0] = cfg.val_dataloader.dataset.pipeline[0]
    assert '1 of 8 samples that were looked at cannot be read' in refused(cfg, 'train')  # nothing leaves it out


def test_a_run_reads_a_sample_and_the_tool_all(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(data_sets, '_SAMPLES', 3)
    cfg = segmenter(shapes, tmp_path)
    assert [each.annotations for each in look_at_data(cfg, 'train')] == [3]
    assert [each.annotations for each in look_at_data(cfg, 'train', whole=True)] == [8]


def classifier(root, **splits):
    """Folders of classes for each split, and a config that has them."""
    for split, names in splits.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            cv2.imwrite(str(root / split / name / 'a.png'), np.zeros((8, 8, 3)))
    cfg = Config.fromfile(ROOT / 'configs/mmpretrain/secvit/secvit_t_classifier_custom.py')
    init_default_scope('mmpretrain')
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
    return cfg


@pytest.mark.parametrize(
    ('splits', 'change', 'message'),
    [
        (dict(train='abc', val='abc'), {}, r"train data: '.*train' holds 3 folders, .*num_classes is 2\. Set it"),
        (dict(train='ab', val='a'), {}, r"val data: '.*val' holds 1 folders"),
        (dict(train='ab', val='bc'), {}, r"'.*val' and '.*train' hold other classes \(a, c in one of them\)"),
        (dict(train='ab', val='ab'), {'model.head.num_classes': 3}, r'data_preprocessor\.num_classes is 2 and .* is 3'),
        (dict(train='ab'), {}, r"val data: '.*val' not found\. .*\(docs/pretraining\.md\)"),
        (dict(train='ab', val='ab'), {}, None),
    ],
)
def test_folders_of_classes_fit_the_classifier_and_each_other(tmp_path, splits, change, message):
    cfg = classifier(tmp_path, **splits)
    cfg.merge_from_dict(change)
    with pytest.raises(InputError, match=message) if message else nullcontext():
        check_data(cfg, 'train', 'val')


def test_a_list_of_images_stands_for_folders_of_classes(tmp_path):
    cfg = classifier(tmp_path, train='ab')
    (tmp_path / 'val.txt').write_text('a/a.png 0\nb/a.png 1\n')
    cfg.val_dataloader.dataset.update(ann_file='val.txt', data_prefix='train')
    assert counted(cfg, 'train', 'val') == [('train', 2, 2), ('val', 2, 2)]
    for text, message in (
        ('a/a.png 2', 'labels 2 are beyond the 2 classes, which are 0 to 1'),
        ('a/a.png', 'Each line of the list is an image and the number of its class'),
        ('', 'no image'),
        ('a/b.png 0', '1 of 1 samples that were looked at cannot be read'),
    ):
        (tmp_path / 'val.txt').write_text(text)
        assert message in refused(cfg, 'val')
