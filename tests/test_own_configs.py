"""Configs that users change: the ones to copy for their own data, and the ablations, by their options."""

import argparse
import re
import shlex
from functools import partial

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, PARAM_SCHEDULERS

from mmsec.cli.config import dicts_of, load_config
from mmsec.cli.schedule import check_warm_up
from tests.conftest import OFFICIAL, run_here, shrink_model
from tests.test_configs import CONFIGS, FOLDER

SHAPES = ('disc', 'square', 'triangle', 'star')
COCO = {
    'images': 'coco/train2017',
    **{f'{split}.json': 'coco/annotations/instances_train2017.json' for split in ('train', 'val')},
}
LAYOUTS = {  # of a user's data, made of links into generated shapes
    'mmdet/secvit/secvit_t_maskrcnn_custom.py': COCO,
    'mmdet/secvit/secvit_t_retinanet_custom.py': COCO,
    'mmseg/secvit/secvit_t_upernet_custom.py': {
        f'{ours}/{split}': f'ade/{theirs}/training'
        for ours, theirs in (('images', 'images'), ('labels', 'annotations'))
        for split in ('train', 'val')
    },
}


@pytest.mark.parametrize('name', LAYOUTS)
def test_a_copy_of_the_config_for_your_own_data_trains(name, shapes, tmp_path):
    for place, target in LAYOUTS[name].items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).symlink_to(shapes / target)
    classes = SHAPES if 'mmdet' in name else ('none', 'ground', *SHAPES)
    text = (FOLDER / name).read_text().replace("'./", f"'{(FOLDER / name).parent}/")
    for option, value in dict(data_root=f'{tmp_path}/', classes=classes, max_iters=10, max_epochs=1).items():
        text = re.sub(rf'^{option} = .*', f'{option} = {value!r}', text, flags=re.MULTILINE)
    cfg = Config.fromstring(text, '.py')
    shrink_model(cfg)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(OFFICIAL))
    if 'mmseg' in name:
        cfg.train_cfg.val_interval = 10
    for each in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        each.update(num_workers=0, persistent_workers=False)
        for _, step in dicts_of(each):
            step.update({key: (64, 64) for key in ('scale', 'crop_size') if key in step})
    cfg.dump(tmp_path / 'config.py')
    printed = run_here('train.py', tmp_path / 'config.py', '--work-dir', tmp_path / 'work').stdout
    metric = 'mIoU' if 'mmseg' in name else 'coco/segm_mAP' if 'maskrcnn' in name else 'coco/bbox_mAP'
    assert f'{metric}: ' in printed
    checkpoint = torch.load(next((tmp_path / 'work').glob('*.pth')), weights_only=False)
    assert tuple(checkpoint['meta']['dataset_meta']['classes']) == classes


@pytest.mark.parametrize('length', [1, 2, 3, 15, 30])
@pytest.mark.parametrize('name', [n for n in CONFIGS if n.stem.endswith('_custom')], ids=str)
def test_a_copy_of_any_length_reaches_its_learning_rate(name, length):
    text = (FOLDER / name).read_text().replace("'./", f"'{(FOLDER / name).parent}/")
    text = text.replace("'../", f"'{(FOLDER / name).parent.parent}/")
    iterations = max(3, length)  # the least that has a warm-up of two and something behind it
    for option, value in dict(max_iters=iterations, max_epochs=length).items():
        text = re.sub(rf'^{option} = .*', f'{option} = {value}', text, flags=re.MULTILINE)
    cfg = Config.fromstring(text, '.py')
    check_warm_up(cfg, 8 * cfg.train_dataloader.batch_size)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedulers = []
    for each in map(dict, cfg.param_scheduler):
        kind, by_iterations = PARAM_SCHEDULERS.get(each.pop('type')), each.pop('convert_to_iter_based', False)
        make = partial(kind.build_iter_from_epoch, epoch_length=8) if by_iterations else kind
        schedulers.append(make(optimizer, **each))
    rates = []
    for i in range(1, 1 + cfg.train_cfg.get('max_iters', 8 * length)):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or i % 8 == 0:
                scheduler.step()
    assert max(rates) > 0.3
    if 'default_hooks' in text:
        assert iterations < 10 or iterations // cfg.default_hooks.logger.interval >= 7


def options_of(words: str) -> dict:
    """What ``--cfg-options`` makes of words."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *shlex.split(words)]).cfg_options


@pytest.mark.parametrize('name', [n for n in CONFIGS if n.stem.endswith('_groupings_shapes')], ids=str)
def test_every_ablation_of_the_table_groups_in_another_way(name):
    rows = re.findall(r"^\| `('?model\..*)` \|", (FOLDER / name.parent / 'README.md').read_text(), re.MULTILINE)
    images, found = torch.randn(1, 3, 64, 96), []
    for options in ({}, *map(options_of, rows)):
        cfg = load_config(str(FOLDER / name), options)
        shrink_model(cfg)
        torch.manual_seed(0)  # the same weights
        found.append(MODELS.build(cfg.model.backbone).eval()(images)[-1])
    assert len(rows) == 13
    assert [(i, j) for i in range(14) for j in range(i) if torch.equal(found[i], found[j])] == []
