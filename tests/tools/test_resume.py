"""Runs that are killed, or go on from a checkpoint."""

import multiprocessing
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.config import Config

from tests.conftest import DETECTOR, ROOT, SEGMENTER, run_here, small_run


def test_a_killed_run_goes_on_where_it_was(shapes, tmp_path):
    config = small_run(DETECTOR, shapes, tmp_path, **{'train_cfg.max_epochs': 4, 'train_cfg.val_interval': 9})
    work_dir = tmp_path / 'work'
    command = [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', work_dir]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (work_dir / 'last_checkpoint').exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    saved = int(re.search(r'epoch_(\d+)', (work_dir / 'last_checkpoint').read_text())[1])
    assert saved < 4, 'the run ended before it was killed'
    resumed = run_here('train.py', config, '--work-dir', work_dir, '--resume', 'auto')
    assert f'resumed epoch: {saved}' in resumed.stdout
    assert re.findall(r'Epoch\(train\)\s+\[(\d)\]', resumed.stdout)[0] == str(saved + 1)
    assert (work_dir / 'epoch_4.pth').exists()


def test_resume_without_a_checkpoint_starts_anew_and_from_a_path_goes_on(segmenter, shapes, tmp_path):
    _, work_dir, _ = segmenter
    config = small_run(SEGMENTER, shapes, tmp_path, **{'train_cfg.max_iters': 22})
    result = run_here('train.py', config, '--work-dir', tmp_path / 'work', '--resume', work_dir / 'iter_20.pth')
    assert 'resumed epoch: 0, iter: 20' in result.stdout


def test_resume_auto_says_that_it_starts_from_scratch_and_refuses_another_config(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path, **{'train_cfg.max_iters': 2, 'train_cfg.val_interval': 9})
    first = run_here('train.py', config, '--work-dir', tmp_path / 'work', '--resume')
    assert 'the run starts from scratch' in first.stdout
    options = ['--cfg-options', 'optim_wrapper.optimizer.lr=0.5']
    other = run_here('train.py', config, '--work-dir', tmp_path / 'work', '--resume', *options, check=False)
    assert other.returncode == 1
    assert re.search(r"(?s)iter_2\.pth' was made by another config.*-.*'lr': 0\.0008.*\+.*'lr': 0\.5", other.stdout)
    all_the_same = ['--resume', tmp_path / 'work/iter_2.pth', *options, 'train_cfg.max_iters=3']
    assert 'iter: 2' in run_here('train.py', config, '--work-dir', tmp_path / 'work', *all_the_same).stdout


def end_data_workers():
    """As the end of a process does: torch waits five seconds for each, and its handler calls their end an error."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize(
    ('name', 'crop', 'whole', 'half', 'last'),
    [
        (DETECTOR, (96, 96), {'train_cfg.max_epochs': 2}, {'train_cfg.max_epochs': 1}, 'epoch_2.pth'),
        (SEGMENTER, (48, 48), {'train_cfg.max_iters': 4}, {'train_cfg.max_iters': 2}, 'iter_4.pth'),
    ],
)
def test_a_resumed_run_augments_as_the_uninterrupted_one(shapes, tmp_path, name, crop, whole, half, last):
    weights = []
    runs = [('whole', whole, 2), ('resumed', half, 2), ('resumed', whole, 0)]
    for work, length, workers in runs:
        options = {'num_workers': workers, 'persistent_workers': workers > 0}
        options = {f'train_dataloader.{key}': value for key, value in options.items()}
        config = small_run(name, shapes, tmp_path, **length, **options, **{'train_cfg.val_interval': 9})
        cfg = Config.fromfile(config)
        pipeline = cfg.train_dataloader.dataset.pipeline
        pipeline[-1:-1] = [dict(type='RandomCrop', crop_size=crop), dict(type='PhotoMetricDistortion')]
        cfg.dump(config)
        run_here('train.py', config, '--work-dir', tmp_path / work, '--resume')
        end_data_workers()
        if (tmp_path / work / last).exists():
            weights.append(torch.load(tmp_path / work / last, weights_only=True)['state_dict'])
    one, other = weights
    assert all(torch.equal(value, other[key]) for key, value in one.items())
