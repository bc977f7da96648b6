"""Checkpoints on disks that fill and machines that die."""

import contextlib
import os
import subprocess
import types
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger

from mmsec.engine.hooks.atomic_checkpoint import AtomicFileBackend
from mmsec.engine.work_dir import hold
from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint
from mmsec.registry import HOOKS
from tests.engine import toy_run


def test_a_full_disk_fails_the_save_and_not_the_run(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', disk], capture_output=True).returncode:
        pytest.skip('a small tmpfs cannot be mounted here')
    try:
        first = toy_run(disk, 2).communicate(timeout=120)[0]
        assert 'was not saved' not in first
        assert (disk / 'iter_2.pth').exists()
        kept = {path.name: path.read_bytes() for path in disk.glob('iter_*.pth')}
        (disk / 'others').write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - 2**20))
        full = toy_run(disk, 5).communicate(timeout=120)[0]
        assert 'iteration 5 ' in full, full
        assert "iter_3.pth' was not saved: [Errno 28] No space left on device" in full
        assert {path.name: path.read_bytes() for path in disk.glob('iter_*.pth')} == kept
        assert (disk / 'last_checkpoint').read_text().endswith('iter_2.pth')
        assert not list(disk.glob('.*tmp'))
        with open(disk / 'others', 'ab', buffering=0) as others, contextlib.suppress(OSError):
            while others.write(b'x'):
                pass
        with pytest.raises(InputError, match=r"work dir '.*' cannot be written to: No space left on device"):
            hold(disk)
        (disk / 'others').unlink()
        again = toy_run(disk, 4).communicate(timeout=120)[0]
        assert 'resumed 2 optimizer schedule average' in again
        assert sorted(path.name for path in disk.glob('iter_*.pth')) == ['iter_3.pth', 'iter_4.pth']
    finally:
        subprocess.run(['umount', disk], check=True)


def test_what_a_killed_run_left_is_deleted(tmp_path):
    assert toy_run(tmp_path, 3, '7').wait(60) == 0
    saved = read_checkpoint(tmp_path / 'iter_3.pth')
    assert saved['message_hub']['runtime_info']['keep_ckpt_ids'] == [1, 2, 3]  # when it was written
    (tmp_path / 'iter_1.pth').write_bytes(b'not yet deleted')
    for name in ('.iter_4.pth.77.tmp', '.last_checkpoint.77.tmp', '.rolling.pth.77.tmp'):
        (tmp_path / name).write_bytes(b'half')
    (tmp_path / '.of_somebody.tmp').touch()
    assert toy_run(tmp_path, 4).wait(60) == 0
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {name for name in files if name.endswith(('.pth', '.tmp'))} == {
        'iter_3.pth',
        'iter_4.pth',
        '.of_somebody.tmp',
    }


def test_a_resumed_run_knows_its_best_checkpoint_though_it_was_saved_later(tmp_path):
    def save(name, run, iteration, **best):
        content = {'meta': {'run': run, 'iter': iteration}, 'message_hub': {'runtime_info': best}}
        torch.save(content, tmp_path / name)

    elsewhere = '/moved/since/best_AP_iter_20.pth'
    save('best_AP_iter_10.pth', 'a', 10, best_score=0.3, best_ckpt='/moved/since/best_AP_iter_10.pth')
    save('best_AP_iter_20.pth', 'a', 20, best_score=0.4, best_ckpt=elsewhere)
    save('best_AP_iter_99.pth', 'b', 99, best_score=0.9, best_ckpt='best_AP_iter_99.pth')
    hook = HOOKS.build(dict(type='mmsec.AtomicCheckpointHook', save_best='AP', rule='greater'))
    runner = types.SimpleNamespace(
        work_dir=str(tmp_path),
        message_hub=MessageHub.get_instance('resumed'),
        logger=MMLogger.get_instance('resumed'),
        visualizer=types.SimpleNamespace(_vis_backends={}),
        timestamp='now',
        epoch=0,
        iter=15,
        _resume=True,
        _load_from=str(tmp_path / 'iter_15.pth'),
    )
    hook.after_load_checkpoint(runner, {'meta': {'run': 'a'}})
    hook.before_train(runner)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['best_AP_iter_20.pth', 'best_AP_iter_99.pth']
    assert runner.message_hub.runtime_info['best_score'] == 0.4
    assert hook.best_ckpt_path == str(tmp_path / 'best_AP_iter_20.pth')


@pytest.mark.parametrize(
    ('old', 'new'), [('WholeCheckpointHook', 'AtomicCheckpointHook'), ('FiniteHook', 'NaNGuardHook')]
)
def test_an_old_name_in_a_config_says_the_new_one(old, new):
    with pytest.raises(InputError, match=f'mmsec.{old} is now called mmsec.{new}'):
        HOOKS.build(dict(type=f'mmsec.{old}', interval=1))


@pytest.mark.parametrize(
    'elsewhere', [dict(backend_args=dict(backend='petrel')), dict(out_dir='x'), dict(filename_tmpl='x_{}.pth')]
)
def test_other_places_are_refused(elsewhere):
    hook = HOOKS.build(dict(type='mmsec.AtomicCheckpointHook', **elsewhere))
    with pytest.raises(ValueError, match=rf'where --resume auto looks; got {next(iter(elsewhere))}='):
        hook.before_train(types.SimpleNamespace(work_dir='work'))


def test_the_best_checkpoint_outlives_a_save_that_fails(tmp_path):
    hook = HOOKS.build(dict(type='mmsec.AtomicCheckpointHook', by_epoch=False, save_best='auto', rule='greater'))
    hook.out_dir, hook.file_backend = str(tmp_path), AtomicFileBackend()
    hub = MessageHub.get_instance('best')
    fails = False

    def save_checkpoint(folder, filename, **options):
        if fails:
            raise OSError(28, 'No space left on device')
        (tmp_path / filename).write_bytes(b'weights')

    said = []
    runner = types.SimpleNamespace(
        iter=1,
        epoch=0,
        message_hub=hub,
        save_checkpoint=save_checkpoint,
        logger=types.SimpleNamespace(info=said.append, error=said.append),
    )
    hook.best_ckpt_path = None
    for iteration, score, fails, kept in ((1, 0.3, False, 1), (2, 0.4, True, 1), (3, 0.35, False, 3)):  # noqa: B007
        runner.iter = iteration
        hook._save_best_checkpoint(runner, {'AP': score})
        assert [path.name for path in tmp_path.iterdir()] == [f'best_AP_iter_{kept}.pth']
        assert Path(hook.best_ckpt_path).name == f'best_AP_iter_{kept}.pth'
    assert sum('the best checkpoint was not saved: [Errno 28]' in line for line in said) == 1
    assert hub.get_info('best_score') == 0.35
