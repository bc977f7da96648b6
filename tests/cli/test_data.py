import json

import pytest

from mmsec.cli.config import load_config
from mmsec.cli.data import check_data, naming_broken_annotations
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


def test_an_annotation_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / 'annotations').mkdir()
    path = tmp_path / 'annotations/instances_train2017.json'
    path.write_text('{"images": [')
    cfg = load_config(DETECTOR, {'train_dataloader.dataset.data_root': str(tmp_path)})
    with (
        pytest.raises(InputError, match=r"instances_train2017\.json' is not JSON: Expecting"),
        naming_broken_annotations(cfg),
    ):
        json.loads(path.read_text())
