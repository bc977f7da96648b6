"""Configs that users change: the ones to copy for their own data, and the ablations, by their options."""

import argparse
import re

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS

from mmsec.cli.config import dicts_of, load_config
from tests.conftest import OFFICIAL, run_tool, shrink_model
from tests.test_configs import CONFIGS, FOLDER


def options_of(words: str) -> dict:
    """What ``--cfg-options`` makes of words."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *words.split()]).cfg_options


@pytest.mark.parametrize('name', [n for n in CONFIGS if n.stem.endswith('_groupings_shapes')], ids=str)
def test_every_ablation_of_the_table_groups_in_another_way(name):
    page = (FOLDER / name.parent / 'README.md').read_text()
    rows = re.findall(r'^\| `(model\..*)` \|', page, re.MULTILINE)
    images, found = torch.randn(1, 3, 64, 96), []
    for options in ({}, *map(options_of, rows)):
        cfg = load_config(str(FOLDER / name), options)
        shrink_model(cfg)
        torch.manual_seed(0)  # the same weights
        found.append(MODELS.build(cfg.model.backbone).eval()(images)[-1])
    assert len(rows) == 13
    assert [(i, j) for i in range(14) for j in range(i) if torch.equal(found[i], found[j])] == []


@pytest.mark.parametrize(
    ('name', 'classes', 'places'),
    [
        (
            'mmdet/secvit/secvit_t_maskrcnn_custom.py',
            ('disc', 'square', 'triangle', 'star'),
            {
                'images': 'coco/train2017',
                'train.json': 'coco/annotations/instances_train2017.json',
                'val.json': 'coco/annotations/instances_train2017.json',
            },
        ),
        (
            'mmseg/secvit/secvit_t_upernet_custom.py',
            ('none', 'ground', 'disc', 'square', 'triangle', 'star'),
            {
                'images/train': 'ade/images/training',
                'images/val': 'ade/images/validation',
                'labels/train': 'ade/annotations/training',
                'labels/val': 'ade/annotations/validation',
            },
        ),
    ],
)
def test_a_copy_of_the_config_for_your_own_data_trains(name, classes, places, shapes, tmp_path):
    for place, target in places.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).symlink_to(shapes / target)
    text = (FOLDER / name).read_text().replace("'./", f"'{(FOLDER / name).parent}/")
    text = re.sub(r'^data_root = .*', f"data_root = '{tmp_path}/'", text, flags=re.MULTILINE)
    text = re.sub(r'^classes = .*', f'classes = {classes}', text, flags=re.MULTILINE)
    cfg = Config.fromstring(re.sub(r'^max_iters = .*', 'max_iters = 10', text, flags=re.MULTILINE), '.py')
    shrink_model(cfg)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(OFFICIAL))
    cfg.train_cfg.update(dict(max_epochs=1) if cfg.default_scope == 'mmdet' else dict(val_interval=10))
    for each in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        each.update(num_workers=0, persistent_workers=False)
        for _, step in dicts_of(each):
            step.update({key: size for key, size in (('scale', (64, 64)), ('crop_size', (64, 64))) if key in step})
    cfg.dump(tmp_path / 'config.py')
    printed = run_tool('train.py', tmp_path / 'config.py', '--work-dir', tmp_path / 'work').stdout
    assert re.search(r'(coco/segm_mAP|mIoU): ', printed)
    checkpoint = torch.load(next((tmp_path / 'work').glob('*.pth')), weights_only=False)
    assert tuple(checkpoint['meta']['dataset_meta']['classes']) == classes
