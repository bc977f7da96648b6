"""A misspelt option in a config is one line in every tool; a bug is a traceback."""

import re
import runpy
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS
from torch import nn

from mmsec.cli.config import load_config
from mmsec.cli.options import naming_misspelt_options
from mmsec.errors import InputError
from mmsec.registry import MODELS as OURS
from tests.conftest import ROOT, run_tool, small_checkpoint, small_run

DETECTOR = str(ROOT / 'configs/mmdet/secvit_t_maskrcnn.py')
SEGMENTER = str(ROOT / 'configs/mmseg/secvit_t_upernet.py')


def message_for(path: str, options: dict) -> str:
    cfg = load_config(path, {'model.backbone.init_cfg': None} | options)
    with pytest.raises(InputError) as caught, naming_misspelt_options(cfg):
        MODELS.build(cfg.model)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ('path', 'option', 'taken', 'meant'),
    [
        (DETECTOR, 'model.backbone.arhc', 'SecViT has no such option. It has arch, in_channels, ', 'arch'),
        (DETECTOR, 'model.bakcbone', 'MaskRCNN has no such option. It has backbone, ', 'backbone'),
        (DETECTOR, 'model.roi_head.bbox_head.num_clases', 'fc_out_channels, num_shared_convs', 'num_classes'),
        (SEGMENTER, 'model.decode_head.chanels', 'UPerHead has no such option. It has pool_scales, ', 'channels'),
        (SEGMENTER, 'model.backbone.norm_cfg.momentm', 'SyncBatchNorm has no such option', 'momentum'),
    ],
)
def test_a_misspelt_option_is_named_with_those_there_are(path, option, taken, meant):
    message = message_for(path, {option: 0})
    assert message.startswith(f'{option}: ')
    assert taken in message
    assert message.endswith(f"Did you mean '{meant}'?")


@pytest.mark.parametrize(
    ('part', 'given', 'meant'),
    [
        ('backbone', 'mmsec.SecVit', 'mmsec.SecViT'),
        ('backbone', 'SecViT', 'mmsec.SecViT'),
        ('decode_head', 'UperHead', 'UPerHead'),
        ('decode_head.norm_cfg', 'BNN', 'BN'),
        ('decode_head.loss_decode', 'CrosEntropyLoss', 'CrossEntropyLoss'),
    ],
)
def test_a_misspelt_type_is_named(part, given, meant):
    message = message_for(SEGMENTER, {f'model.{part}.type': given})
    assert message.startswith(f"model.{part}.type: no '{given}' in the registry")
    assert message.endswith(f"Did you mean '{meant}'?")


def test_no_name_is_suggested_where_none_is_close():
    assert 'Did you mean' not in message_for(SEGMENTER, {'model.backbone.type': 'mmzzz.Qqqqq'})
    assert 'Did you mean' not in message_for(SEGMENTER, {'model.backbone.qqqqq': 1})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'arch': 'tinny'}, "model.backbone: arch must be one of .*, got 'tinny'"),
        ({'grouping': {'type': 'SematicGrouping'}}, r'model.backbone: type of grouping must be one of .*Sematic'),
        ({'grouping': {'type': 'WindowGrouping', 'siz': 7}}, r"model.backbone: grouping WindowGrouping .* 'siz'"),
        ({'drop_path_rate': 2}, r'model.backbone: drop_path_rate must be in \[0, 1\), got 2'),
    ],
)
def test_a_value_that_a_class_of_ours_refuses_is_one_line(options, message):
    for path in (DETECTOR, SEGMENTER):
        found = message_for(path, {f'model.backbone.{name}': value for name, value in options.items()})
        assert re.match(message, found)


class Faulty(nn.Module):
    """A module with a bug."""

    def __init__(self, bug: str) -> None:
        super().__init__()
        if bug == 'option of another class':
            nn.Linear(1, 1, bug=bug)
        if bug == 'type of no class':
            MODELS.build(dict(type='NoSuchModule'))
        if bug == 'key':
            {}['arch']
        if bug == 'value':
            int('no number')
        if bug == 'value, in a file of ours':
            list(zip((), (1,), strict=True))
        torch.zeros(1).view(3)


@pytest.mark.parametrize(
    ('bug', 'error'),
    [
        ('option of another class', TypeError),
        ('type of no class', KeyError),
        ('key', KeyError),
        ('value', ValueError),
        ('value, in a file of ours', ValueError),
        ('something else', RuntimeError),
    ],
)
def test_a_bug_stays_what_it_is(monkeypatch, bug, error):
    monkeypatch.setitem(OURS.module_dict, 'Faulty', Faulty)
    monkeypatch.setitem(globals(), '__name__', 'mmsec.models.faulty')
    cfg = Config(dict(model=dict(type='mmsec.Faulty', bug=bug)))
    with pytest.raises(error) as caught, naming_misspelt_options(cfg):
        MODELS.build(cfg.model)
    assert type(caught.value) is error


def test_what_is_built_later_is_looked_at_too():
    cfg = Config(dict(hook=dict(type='mmsec.ClusterVisualizationHook', num_image=1)))
    message = r"^hook\.num_image: .* It has num_images, stages\. Did you mean 'num_images'"
    with pytest.raises(InputError, match=message), naming_misspelt_options(cfg):
        HOOKS.build(cfg.hook)


@pytest.fixture(scope='module')
def small(shapes, tmp_path_factory):
    """A config, a checkpoint that fits it, and an image."""
    config = small_run('mmseg/secvit_t_upernet_shapes.py', shapes, tmp_path_factory.mktemp('small'))
    return config, small_checkpoint(config), next((shapes / 'ade/images/validation').iterdir())


@pytest.mark.parametrize('tool', ['infer', 'analyze_clusters', 'visualize_clusters', 'get_flops'])
def test_the_tools_that_look_say_it_in_one_line(small, tmp_path, monkeypatch, tool):
    config, checkpoint, image = small
    misspelt = tmp_path / 'misspelt.py'
    misspelt.write_text(f"_base_ = '{config}'\nmodel = dict(backbone=dict(arhc='tiny'))\n")  # in the file itself
    command = {
        'infer': ['tools/infer.py', image, misspelt, checkpoint, '--out', tmp_path / 'out'],
        'analyze_clusters': ['tools/analysis_tools/analyze_clusters.py', misspelt, checkpoint],
        'visualize_clusters': [
            'tools/analysis_tools/visualize_clusters.py', image, '--config', misspelt, '--out', tmp_path / 'out'
        ],
        'get_flops': ['tools/analysis_tools/get_flops.py', misspelt],
    }[tool]  # fmt: skip
    monkeypatch.setattr(sys, 'argv', list(map(str, command)))
    main = runpy.run_path(str(ROOT / command[0]))['main']
    with pytest.raises(InputError, match=r'^model\.backbone\.arhc: SecViT has no such option'):
        main()


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_the_tools_that_run_say_it_in_one_line(small, tmp_path, tool):
    config, checkpoint, _ = small
    arguments = [config, *([checkpoint] if tool == 'test' else []), '--work-dir', tmp_path / 'work']
    result = run_tool(f'{tool}.py', *arguments, '--cfg-options', 'model.backbone.arhc=tiny', check=False)
    assert result.returncode == 1
    assert 'error: model.backbone.arhc: SecViT has no such option' in result.stdout.splitlines()[-1]
    assert 'Traceback' not in result.stdout
