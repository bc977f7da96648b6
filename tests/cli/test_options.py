"""A misspelt option or type in a config, or a value that mmsec refuses, is one line; a bug is a traceback."""

import importlib
import json
import re

import mmdet
import mmseg
import pytest
from mmengine.config import Config
from torch import nn

from mmsec.cli.config import load_config
from mmsec.cli.options import check_options
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.registry import MODELS
from tests.conftest import ROOT, error_here, small_run
from tests.conftest import SEGMENTER as SEGMENTER_SHAPES
from tests.test_configs import CONFIGS, load

DETECTOR = str(ROOT / 'configs/mmdet/secvit_t_maskrcnn.py')
SEGMENTER = str(ROOT / 'configs/mmseg/secvit_t_upernet.py')
OTHER_BACKBONES = [
    str(ROOT / 'configs' / each)
    for each in ('mmdet/clustr/clustr_b1_maskrcnn.py', 'mmdet/ablations/swin_t_maskrcnn_clusters.py')
]
STOCK = [
    (mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'),
    (mmdet, 'dino/dino-4scale_r50_8xb2-12e_coco.py'),
    (mmdet, 'rtmdet/rtmdet-ins_s_8xb32-300e_coco.py'),
    (mmdet, 'detr/detr_r50_8xb2-150e_coco.py'),
    (mmdet, 'carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py'),
    (mmdet, 'dcnv2/mask-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py'),
    (mmdet, 'albu_example/mask-rcnn_r50_fpn_albu-1x_coco.py'),
    (mmdet, 'vfnet/vfnet_r50_fpn_1x_coco.py'),
    (mmseg, 'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'),
    (mmseg, 'mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py'),
    (mmseg, 'point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py'),
]


def message_for(path: str, options: dict) -> str:
    with pytest.raises(InputError) as caught:
        load_config(path, options)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize('name', CONFIGS, ids=str)
def test_every_shipped_config_passes(name):
    check_options(load(name))


@pytest.mark.parametrize(('host', 'name'), STOCK, ids=str)
def test_configs_of_the_hosts_pass(host, name):
    load_config(f'{host.__path__[0]}/.mim/configs/{name}')


@pytest.mark.parametrize(
    ('path', 'option', 'taken', 'meant'),
    [
        (DETECTOR, 'model.backbone.arhc', 'SecViT has no such option. It has arch, in_channels, ', 'arch'),
        (DETECTOR, 'model.bakcbone', 'MaskRCNN has no such option. It has backbone, ', 'backbone'),
        (DETECTOR, 'model.roi_head.bbox_head.num_clases', 'Shared2FCBBoxHead', 'num_classes'),
        (DETECTOR, 'model.data_preprocessor.pad_size_divsor', 'DetDataPreprocessor', 'pad_size_divisor'),
        (DETECTOR, 'train_dataloader.dataset.anno_file', 'CocoDataset', 'ann_file'),
        (DETECTOR, 'train_dataloader.sampler.shufle', 'DefaultSampler', 'shuffle'),
        (DETECTOR, 'optim_wrapper.optimizer.weight_decy', 'AdamW', 'weight_decay'),
        (DETECTOR, 'optim_wrapper.clip_grads', 'OptimWrapper', 'clip_grad'),
        (DETECTOR, 'param_scheduler.0.start_facter', 'LinearLR', 'start_factor'),
        (DETECTOR, 'custom_hooks.1.save_minute', 'PreemptionHook', 'save_minutes'),
        (DETECTOR, 'val_evaluator.metrics', 'CocoMetric', 'metric'),
        (DETECTOR, 'train_cfg.max_epoch', 'EpochBasedTrainLoop', 'max_epochs'),
        (SEGMENTER, 'model.decode_head.chanels', 'UPerHead has no such option. It has pool_scales, ', 'channels'),
        (SEGMENTER, 'model.backbone.norm_cfg.momentm', 'SyncBatchNorm has no such option', 'momentum'),
        (SEGMENTER, 'tta_pipeline.1.transfroms', 'TestTimeAug', 'transforms'),
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


@pytest.mark.parametrize('path', [DETECTOR, SEGMENTER, *OTHER_BACKBONES])
def test_what_is_for_python_is_refused_in_a_config(path):
    message = message_for(path, {'model.backbone.pretrained': 'a.pth'})
    assert message.startswith('model.backbone.pretrained is for Python')
    assert message.endswith("In a config: init_cfg=dict(type='Pretrained', checkpoint='a.pth')")


def test_no_name_is_suggested_where_none_is_close():
    assert 'Did you mean' not in message_for(SEGMENTER, {'model.backbone.type': 'mmzzz.Qqqqq'})
    assert 'Did you mean' not in message_for(SEGMENTER, {'model.backbone.qqqqq': 1})


class Base(nn.Module):
    """Takes two options."""

    def __init__(self, first: int = 0, second: int = 0) -> None:
        super().__init__()


class HandsOn(Base):
    """Takes one more than its base, and gives it one."""

    def __init__(self, own: int = 0, **others) -> None:
        super().__init__(second=2, **others)


class TakesAnything(Base):
    """What it takes cannot be told."""

    def __init__(self, **others) -> None:
        self.others = others
        super().__init__()


@pytest.mark.parametrize(
    ('part', 'refused'),
    [
        (dict(type=HandsOn, own=1, first=1), None),
        (dict(type=HandsOn, own=1, first=1, second=1), 'model.second: HandsOn has no such option. It has own, first.'),
        (dict(type='tests.cli.test_options.HandsOn', frist=1), 'model.frist: HandsOn'),
        (dict(type=TakesAnything, anything=1), None),
        (dict(type='SegDataPreProcessor', _scope_='mmseg', sized=1), 'model.sized: SegDataPreProcessor'),
        (dict(type=nn.Linear, in_features=1, out_featurs=1), 'model.out_featurs: Linear'),
        (dict(type=Base, first=dict(type='nms', iou_threshold=0.5)), None),
    ],
)
def test_options_are_those_of_the_class_and_of_the_bases_it_hands_them_to(part, refused):
    cfg = Config(dict(default_scope='mmdet', model=part, own_use=dict(type='mmsec.SecViT', nothing=1)))
    if refused is None:
        return check_options(cfg)
    with pytest.raises(InputError, match=f'^{re.escape(refused)}'):
        check_options(cfg)


@pytest.mark.parametrize(
    ('path', 'option', 'value', 'wanted'),
    [
        (DETECTOR, 'model.backbone.drop_path_rate', '0.1x', 'float'),
        (DETECTOR, 'train_cfg.max_epochs', '12 epochs', 'int'),
        (DETECTOR, 'param_scheduler.0.end', 'x', 'int'),
        (SEGMENTER, 'default_hooks.logger.interval', 'often', 'int'),
        (SEGMENTER, 'default_hooks.checkpoint.interval', 'often', 'int'),
        (SEGMENTER, 'resume', 'auto', 'bool'),
    ],
)
def test_text_for_a_number_is_refused(path, option, value, wanted):
    assert message_for(path, {option: value}) == f'{option} must be {wanted}, got {value!r}'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'randomness.sed': 1}, r"TypeError: .*unexpected keyword argument 'sed'"),
        ({'compile.bakend': 'eager'}, r"TypeError: .*unexpected keyword argument 'bakend'"),
        ({'log_processor.windw': 1}, r"TypeError: .*unexpected keyword argument 'windw'"),
        ({'train_dataloader.batch_size': 'four'}, 'ValueError: batch_size should be a positive integer'),
        ({'model.decode_head.channels': None}, 'TypeError: '),
        ({'model.backbone.out_indices': 3}, 'TypeError: '),
        ({'optim_wrapper.optimizer.lr': None}, 'TypeError: '),
        ({'model.decode_head': {'_delete_': True, 'type': 'UPerHead'}}, r"TypeError: .*missing .* argument"),
        ({'train_dataloader.dataset.pipeline': [3]}, 'TypeError: transform must be'),
    ],
)  # fmt: skip
def test_options_that_nothing_can_be_built_of_end_a_tool_in_one_line(shapes, tmp_path, options, message):
    config = small_run(SEGMENTER_SHAPES, shapes, tmp_path)
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    cfg.dump(config)
    error = error_here('train.py', config, '--work-dir', tmp_path / 'work')
    assert re.match(rf'error: the config cannot be built: {message}', error)
    assert re.search(r'\(.*\.py, line \d+\)$', error)


def test_a_package_that_is_missing_is_one_line(capsys):
    with pytest.raises(SystemExit, match='1'):
        run(lambda: importlib.import_module('no_such_module'))
    assert capsys.readouterr().err == "error: No module named 'no_such_module'\n"


def test_a_value_that_mmsec_refuses_ends_a_tool_in_one_line_and_a_bug_in_a_traceback(capsys):
    with pytest.raises(SystemExit, match='1'):
        run(lambda: MODELS.build(dict(type='mmsec.SecViT', arch='tinny')))
    assert re.fullmatch(r"error: arch must be one of .*, got 'tinny'\n", capsys.readouterr().err)
    for bug, error in ((lambda: json.loads(''), ValueError), (lambda: {}['key'], KeyError)):
        with pytest.raises(error):
            run(bug)
