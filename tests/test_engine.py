import contextlib
import importlib.util
import json
import runpy
import subprocess
import sys
import unittest.mock

import pytest
import torch
from mmengine.config import Config

from mmsec.cli.config import check_operators, load_config, revert_sync_bn
from mmsec.cli.data import check_data, naming_broken_annotations
from mmsec.cli.weights import check_frozen, check_weights
from mmsec.engine.precision import set_tf32
from mmsec.errors import InputError
from mmsec.registry import MODELS
from tests.conftest import ROOT

DETECTOR = str(ROOT / 'configs/mmdet/secvit_t_maskrcnn.py')
SEGMENTER = str(ROOT / 'configs/mmseg/secvit_t_upernet.py')


def test_options_are_merged():
    cfg = load_config(
        DETECTOR,
        {'model.backbone.init_cfg': None, 'model.backbone.cluster_size': 98, 'resume': True, 'randomness.seed': 1},
    )
    assert cfg.randomness.seed == 1
    assert cfg.model.backbone.init_cfg is None
    assert cfg.model.backbone.cluster_size == 98
    assert cfg.resume is True


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.backbne.arch', "no 'backbne' in model"),
        ('modle.backbone.arch', "no 'modle' in the config"),
        ('param_scheduler.7.end', "no '7' in param_scheduler"),
        ('load_fom', "no 'load_fom' in the config"),
    ],
)
def test_a_misspelt_option_is_named(option, message):
    with pytest.raises(InputError, match=f'--cfg-options {option}: {message}'):
        load_config(DETECTOR, {option: 1})


def test_list_entries_can_be_overridden():
    assert load_config(DETECTOR, {'param_scheduler.0.end': 5}).param_scheduler[0].end == 5


def test_a_missing_config_is_named():
    with pytest.raises(InputError, match=r"config 'nowhere\.py' not found"):
        load_config('nowhere.py')


@pytest.mark.parametrize('text', ['model = dict(', "_base_ = './absent.py'"])
def test_a_broken_config_is_named(tmp_path, text):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    with pytest.raises(InputError, match=r'broken\.py. cannot be read'):
        load_config(str(path))


def test_a_config_of_another_host_is_refused(tmp_path):
    path = tmp_path / 'other.py'
    path.write_text("default_scope = 'mmpose'")
    with pytest.raises(InputError, match=r"default_scope must be one of .*, got 'mmpose'"):
        load_config(str(path))


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


def test_missing_and_damaged_weights_are_named(tmp_path):
    cfg = load_config(DETECTOR)
    with pytest.raises(InputError, match=r"checkpoint 'checkpoints/secvit_tiny\.pth' not found"):
        check_weights(cfg)
    cfg.model.backbone.init_cfg = None
    check_weights(cfg)
    cfg.load_from = str(tmp_path / 'broken.pth')
    (tmp_path / 'broken.pth').write_bytes(b'no checkpoint')
    with pytest.raises(InputError, match=r'broken\.pth. cannot be read'):
        check_weights(cfg)


@pytest.mark.parametrize('nested', [False, True])
def test_weights_of_any_part_of_the_model_are_looked_at(tmp_path, nested):
    cfg = load_config(DETECTOR, {'model.backbone.init_cfg': None})
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'absent.pth'))
    cfg.model.roi_head.bbox_head.init_cfg = [dict(type='Xavier', layer='Linear'), init_cfg] if nested else init_cfg
    with pytest.raises(InputError, match=r"absent\.pth' not found"):
        check_weights(cfg)


def test_random_weights_that_stay_as_they_are_are_refused(tmp_path):
    cfg = load_config(DETECTOR)
    cfg.work_dir = str(tmp_path)
    check_frozen(cfg)  # init_cfg names a checkpoint
    cfg = load_config(DETECTOR, {'model.backbone.init_cfg': None})
    cfg.work_dir = str(tmp_path)
    for resume in (False, True):  # resume=True without a checkpoint in the work dir gives no weights
        cfg.resume = resume
        with pytest.raises(
            InputError, match=r'norm_eval=True keeps .* --cfg-options model\.backbone\.norm_eval=False$'
        ):
            check_frozen(cfg)
    (tmp_path / 'last_checkpoint').touch()
    check_frozen(cfg)
    cfg.resume = False
    cfg.load_from = 'epoch_1.pth'
    check_frozen(cfg)
    cfg.load_from = None
    cfg.model.init_cfg = [dict(type='Pretrained', checkpoint='all.pth')]
    check_frozen(cfg)
    cfg.model.init_cfg = None
    cfg.model.backbone.norm_eval = False
    check_frozen(cfg)
    cfg.model.backbone.frozen_stages = 0
    with pytest.raises(InputError, match=r'frozen_stages=0 keeps .* --cfg-options model\.backbone\.frozen_stages=-1$'):
        check_frozen(cfg)


def test_the_line_for_random_weights_trains(tmp_path):
    """What README and the error for a missing checkpoint give."""
    options = {'model.backbone.init_cfg': None, 'model.backbone.norm_eval': False}
    for path in (DETECTOR, SEGMENTER):
        cfg = load_config(path, options)
        cfg.work_dir = str(tmp_path)
        check_frozen(cfg)
        assert MODELS.build(cfg.model.backbone).train().patch_embed.proj[1].training
    line = '--cfg-options ' + ' '.join(f'{name}={value}' for name, value in options.items())
    assert line in (ROOT / 'README.md').read_text()


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
    names = runpy.run_path(str(ROOT / 'tools' / f'{tool}.py'))
    main = names['main']
    monkeypatch.setitem(main.__globals__, 'exit_when_told', lambda: None)
    monkeypatch.setitem(main.__globals__, 'get_device', lambda: 'cuda')
    with pytest.raises(InputError, match='compiled without CUDA'):
        main()


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


def test_sync_bn_runs_as_bn_in_one_process(monkeypatch):
    cfg = load_config(SEGMENTER)
    revert_sync_bn(cfg, 'none')
    assert cfg.model.backbone.norm_cfg.type == cfg.model.decode_head.norm_cfg.type == 'BN'
    cfg = load_config(SEGMENTER)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    revert_sync_bn(cfg, 'pytorch')
    assert cfg.model.backbone.norm_cfg.type == 'SyncBN'


def test_a_config_from_a_dump_loads(tmp_path):
    path = tmp_path / 'dump.py'
    Config.fromfile(SEGMENTER).dump(path)
    assert load_config(str(path)).model.decode_head.type == 'UPerHead'


@pytest.fixture
def _tf32():
    """Puts PyTorch's settings back."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures('_tf32')
@pytest.mark.parametrize('on', [True, False])
def test_tf32_is_for_products_and_convolutions_alike_is_logged_and_leaves_the_cpu_alone(monkeypatch, log, on):
    images, weight = torch.randn(2, 8, 33, 33), torch.randn(16, 8, 3, 3)
    before = images @ images, torch.nn.functional.conv2d(images, weight)
    set_tf32(on)
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is on
    assert (torch.get_float32_matmul_precision() == 'high') == on  # what Inductor asks
    if hasattr(torch.backends.mkldnn, 'matmul'):  # from torch 2.9
        assert torch.backends.mkldnn.matmul.fp32_precision == torch.backends.mkldnn.conv.fp32_precision == 'none'
    after = images @ images, torch.nn.functional.conv2d(images, weight)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert log == []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    set_tf32(on)
    how = 'TF32 (--no-tf32 for full float32)' if on else 'full float32'
    assert log == [f'float32 products and convolutions run in {how}']


@pytest.mark.usefixtures('_tf32')
@pytest.mark.parametrize('tool', ['train', 'test'])
@pytest.mark.parametrize(('options', 'on'), [([], True), (['--no-tf32'], False)])
def test_the_tools_turn_tf32_on_unless_told_not_to(monkeypatch, tool, options, on):
    spec = importlib.util.spec_from_file_location(f'tool_{tool}', ROOT / f'tools/{tool}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ('exit_when_told', 'configure', 'join_processes', 'read_checkpoint', 'load_trained'):
        monkeypatch.setattr(module, name, lambda *args: None, raising=False)
    monkeypatch.setattr(module, 'naming_broken_annotations', lambda cfg: contextlib.nullcontext())
    runner = unittest.mock.MagicMock()
    monkeypatch.setattr(module, 'Runner', runner)
    monkeypatch.setattr(sys, 'argv', [tool, 'config.py', *(['file.pth'] if tool == 'test' else []), *options])
    seen = []
    run = runner.from_cfg.return_value.train if tool == 'train' else runner.from_cfg.return_value.test
    run.side_effect = lambda: seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
    module.main()
    assert seen == [(on, on)]


LEAVING = """
import atexit, sys
import torch.distributed
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.registry import MODELS

class Finalized:
    def __del__(self):
        print('finalized', flush=True)

def main():
    if sys.argv[1] == 'gloo':
        torch.distributed.init_process_group('gloo', init_method=f'file://{sys.argv[2]}', rank=0, world_size=1)
    if sys.argv[3] == 'error':
        raise InputError('no such file')
    sys.exit(int(sys.argv[3]))

keep = Finalized()
atexit.register(print, 'at exit')
run(main)
"""


@pytest.mark.parametrize('code', ['0', '75', 'error'])
@pytest.mark.parametrize('group', ['none', 'gloo'])
def test_a_tool_leaves_with_its_code_and_a_gloo_group_without_finalization(tmp_path, group, code):
    """Finalization is where threads of gloo can abort a process."""
    command = [sys.executable, '-c', LEAVING, group, str(tmp_path / 'group'), code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == (1 if code == 'error' else int(code))
    assert ('error: no such file' in result.stderr) == (code == 'error')
    assert 'at exit' in result.stdout
    assert ('finalized' in result.stdout) == (group == 'none')
