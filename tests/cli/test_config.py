import importlib
import sys

import pytest
import torch
import torch.distributed
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmsec.cli.config import check_operators, load_config, revert_sync_bn, runner_class
from mmsec.errors import InputError
from tests.conftest import ROOT

DETECTOR = str(ROOT / 'configs/mmdet/secvit_t_maskrcnn.py')
SEGMENTER = str(ROOT / 'configs/mmseg/secvit_t_upernet.py')


def test_options_are_merged_also_into_lists_and_what_the_config_leaves_at_its_default():
    options = {'model.backbone.init_cfg': None, 'param_scheduler.0.end': 5, 'resume': True, 'randomness.seed': 1}
    cfg = load_config(DETECTOR, options)
    assert (cfg.model.backbone.init_cfg, cfg.param_scheduler[0].end, cfg.resume) == (None, 5, True)
    assert cfg.randomness.seed == 1


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.backbne.arch', "--cfg-options model.backbne.arch: no 'backbne' in model"),
        ('modle.backbone.arch', "--cfg-options modle.backbone.arch: no 'modle' in the config"),
        ('param_scheduler.7.end', "--cfg-options param_scheduler.7.end: no '7' in param_scheduler"),
        ('load_fom', "--cfg-options load_fom: no 'load_fom' in the config"),
        ('auto_scale_lr.base_batchsize', "no option 'base_batchsize'; it has enable, base_batch_size"),
        ('env_cfg.cudnn_benchmrk', "env_cfg has no option 'cudnn_benchmrk'; it has cudnn_benchmark, mp_cfg"),
    ],
)
def test_an_option_that_nothing_would_read_is_named(option, message):
    with pytest.raises(InputError, match=message):
        load_config(DETECTOR, {option: 1})


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', r'config\.py. cannot be read'),
        ("_base_ = './absent.py'", r'config\.py. cannot be read'),
        ("custom_imports = dict(imports=['no_such_module'])", 'cannot be read: Failed to import .*no_such_module'),
        ("default_scope = 'mmaction'", "default_scope must be one of .*, got 'mmaction'"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line(tmp_path, text, message):
    path = tmp_path / 'config.py'
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_config(str(path))
    assert '\n' not in str(error.value)


def test_mmcv_without_operators_is_named(monkeypatch):
    check_operators('cpu')
    monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version', lambda: 'not available')
    check_operators('cpu')
    line = r'FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="8\.0;9\.0" pip install .* (onedl-)?mmcv$'
    with pytest.raises(InputError, match=f'compiled without CUDA.*{line}'):
        check_operators('cuda:0')
    monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version', lambda: '12.6')
    check_operators('cuda')
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    with pytest.raises(InputError, match='mmcv has no compiled operators'):
        check_operators('cpu')


@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [('train', ['absent.py']), ('test', ['absent.py', 'a']), ('infer', ['absent', 'b', 'c', '--out', 'd'])],
)
def test_tools_look_at_the_operators_before_anything_else(monkeypatch, tool, arguments):
    monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version', lambda: 'not available')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    module = importlib.import_module(f'tools.{tool}')
    monkeypatch.setattr(module, 'get_device', lambda: 'cuda', raising=False)  # infer.py has --device
    with pytest.raises(InputError, match='compiled without CUDA'):
        module.main()


def test_a_config_from_a_dump_loads(tmp_path):
    path = tmp_path / 'dump.py'
    Config.fromfile(SEGMENTER).dump(path)
    assert load_config(str(path)).model.decode_head.type == 'UPerHead'


def test_sync_bn_becomes_bn_where_it_cannot_run_and_says_so(monkeypatch, log):
    cfg = Config(dict(model=dict(norm_cfg=dict(type='SyncBN'), heads=[dict(norm_cfg=dict(type='SyncBN'))])))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    revert_sync_bn(cfg, 'pytorch')
    assert cfg.model.norm_cfg.type == 'SyncBN'
    revert_sync_bn(cfg, 'none')
    assert cfg.model == dict(norm_cfg=dict(type='BN'), heads=[dict(norm_cfg=dict(type='BN'))])
    assert log == ['one process or no GPU: SyncBN in the config runs as BN']


def test_a_runner_of_ones_own_is_taken(monkeypatch):
    class Own(Runner):
        """Somebody's."""

    monkeypatch.setitem(RUNNERS.module_dict, 'Own', Own)
    assert runner_class(Config(dict(runner_type='Own'))) is Own
    assert issubclass(runner_class(Config(dict())), Runner)
