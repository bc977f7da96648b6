from contextlib import nullcontext

import pytest
from mmengine.config import Config

from mmsec.cli.config import load_config
from mmsec.cli.data import check_data
from mmsec.errors import InputError
from tests.conftest import ROOT

DETECTOR = str(ROOT / 'configs/mmdet/secvit_t_maskrcnn.py')


def test_the_first_missing_data_path_is_named(tmp_path, shapes):
    cfg = load_config(DETECTOR, {'train_dataloader.dataset.data_root': str(tmp_path / 'absent')})
    with pytest.raises(InputError, match=r"train data: '.*absent' not found"):
        check_data(cfg, 'train')
    cfg.train_dataloader.dataset.data_root = str(shapes / 'coco')
    check_data(cfg, 'train')
    cfg.train_dataloader.dataset.ann_file = 'annotations/other.json'
    with pytest.raises(InputError, match=r"'.*other\.json' not found"):
        check_data(cfg, 'train')
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
    with pytest.raises(InputError, match=r"'.*other\.json' not found"):
        check_data(cfg, 'train')


@pytest.mark.parametrize('content', ['', '{"images": [', '[}', 'images'])
def test_an_annotation_file_that_is_cut_off_is_named(tmp_path, content):
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/instances_train2017.json').write_text(content)
    cfg = load_config(DETECTOR, {'train_dataloader.dataset.data_root': str(tmp_path)})
    with pytest.raises(InputError, match=r"instances_train2017\.json' is cut off or not JSON"):
        check_data(cfg, 'train')


def classifier(root, **splits):
    """Folders of classes for each split, and a config that has them."""
    for split, names in splits.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
    cfg = Config.fromfile(ROOT / 'configs/mmpretrain/secvit/secvit_t_classifier_custom.py')
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
    (tmp_path / 'val').mkdir()
    (tmp_path / 'val.txt').write_text('1.jpg 0\n')
    cfg.val_dataloader.dataset.ann_file = 'val.txt'
    check_data(cfg, 'train', 'val')
