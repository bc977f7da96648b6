"""tools/train.py on a small generated data set."""

import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmsec.engine.hooks.preemption import TOLD_BY
from mmsec.models import SecViT
from mmsec.models.checkpoints.loading import load_pretrained
from tests.conftest import DETECTOR, SEGMENTER, SMALL_ARCH, run_here, small_run
from tools import train


def test_training_starts_with_a_summary(detector):
    _, work_dir, printed = detector
    block = printed[printed.index('training starts') :].splitlines()[:7]
    assert block[1] == '  batch size     2 = 2 an iteration and process x 1 processes x 1 accumulated'
    assert block[2].split() == ['learning', 'rate', '0.003', '(AdamW)']
    assert re.fullmatch(r'\s+parameters\s+[\d,]+ trained, 0 frozen', block[3])
    assert block[4].split() == ['device', 'cpu']
    assert block[5].split() == ['dtype', 'float32']
    assert block[6].split() == ['work', 'dir', str(work_dir)]


@pytest.mark.parametrize(('run', 'newest'), [('detector', 'epoch_60.pth'), ('segmenter', 'iter_40.pth')])
def test_the_first_iteration_is_on_the_first_screens_and_the_end_says_what_comes_next(request, run, newest):
    config, work_dir, printed = request.getfixturevalue(run)
    assert printed[: printed.index('(train)')].count('\n') <= 60
    assert Config.fromfile(work_dir / config.name).train_cfg == Config.fromfile(config).train_cfg
    rows = dict(line.split(maxsplit=1) for line in printed[printed.index('training is over') :].splitlines()[1:])
    assert Path(rows['checkpoint']) == work_dir / newest
    assert list(Path(rows['logs']).glob('*.log'))
    assert rows['next'] == f'python tools/test.py {work_dir / config.name} {work_dir / newest}'


@pytest.mark.parametrize(('run', 'iteration'), [('detector', 120), ('segmenter', 40)])
def test_clusters_are_drawn_at_each_evaluation(request, run, iteration):
    _, work_dir, _ = request.getfixturevalue(run)
    sheets = sorted(path.name for path in work_dir.glob('*/vis_data/vis_image/*.png'))
    assert sheets == [f'clusters_{image:012d}_{iteration}.png' for image in (9, 12)]


def test_checkpoints_hold_plain_values_and_load_into_a_backbone(detector):
    _, work_dir, _ = detector
    checkpoint = torch.load(work_dir / 'epoch_60.pth', weights_only=True)
    backbone = SecViT(SMALL_ARCH)
    load_pretrained(backbone, work_dir / 'epoch_60.pth')
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, checkpoint['state_dict'][f'backbone.{key}'])


@pytest.mark.parametrize('name', [DETECTOR, SEGMENTER])
def test_bfloat16(shapes, tmp_path, name):
    config = small_run(name, shapes, tmp_path, **{'train_cfg.val_interval': 9})
    result = run_here('train.py', config, '--work-dir', tmp_path / 'work', '--amp', 'bf16')
    assert re.search(r'dtype\s+bfloat16', result.stdout)
    losses = re.findall(r' loss: ([\d.naif]+)', result.stdout)
    assert losses
    assert all(float(loss) < 100 for loss in losses)


def test_compile_in_a_config_works_through_the_runner(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path, **{'train_cfg.val_interval': 9})
    losses = []
    for options in ([], ['--cfg-options', 'compile.backend=eager']):
        result = run_here('train.py', config, '--work-dir', tmp_path / str(len(options)), *options)
        assert ('Model has been "compiled"' in result.stdout) == bool(options)
        losses.append([float(loss) for loss in re.findall(r' loss: ([\d.]+)', result.stdout)])
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_bare_amp_means_fp16(shapes, tmp_path, monkeypatch):
    config = small_run(DETECTOR, shapes, tmp_path)
    monkeypatch.setattr(sys, 'argv', ['train.py', str(config), '--amp', '--work-dir', str(tmp_path)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    wrapper = train.configure(train.parse_args()).optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.clip_grad) == ('AmpOptimWrapper', 'float16', {'max_norm': 5.0})


def test_the_learning_rate_scales_with_the_batch(shapes, tmp_path):
    config = small_run(DETECTOR, shapes, tmp_path, **{'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 9})
    result = run_here(
        'train.py', config, '--work-dir', tmp_path / 'work', '--auto-scale-lr', '--cfg-options',
        'optim_wrapper.optimizer.lr=1e-3', 'auto_scale_lr.base_batch_size=16',
    )  # fmt: skip
    assert re.search(r'learning rate\s+0\.00025 ', result.stdout)  # 4 of 16 images


@pytest.mark.parametrize('changes', [{}, {'custom_hooks': []}])
def test_signals_that_were_held_from_the_first_line_on_are_taken_by_every_run(shapes, tmp_path, changes):
    changes = {'train_cfg.max_iters': 1, 'train_cfg.val_interval': 9, **changes}
    config = small_run(SEGMENTER, shapes, tmp_path, **changes)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TOLD_BY)
    try:
        run_here('train.py', config, '--work-dir', tmp_path / 'work')
        assert not {*TOLD_BY} & signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
