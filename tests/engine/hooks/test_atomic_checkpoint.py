"""Checkpoints on disks that fill and machines that die."""

import os
import subprocess
import types
from pathlib import Path

import pytest
from mmengine.logging import MessageHub

from mmsec.engine.hooks.atomic_checkpoint import AtomicFileBackend
from mmsec.errors import InputError
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
        assert 'finished 5' in full, full
        assert "iter_3.pth' was not saved: [Errno 28] No space left on device" in full
        assert {path.name: path.read_bytes() for path in disk.glob('iter_*.pth')} == kept
        assert (disk / 'last_checkpoint').read_text().endswith('iter_2.pth')
        assert not list(disk.glob('.*tmp'))
        (disk / 'others').unlink()
        again = toy_run(disk, 4).communicate(timeout=120)[0]
        assert 'resumed 2 optimizer schedule average' in again
        assert sorted(path.name for path in disk.glob('iter_*.pth')) == ['iter_3.pth', 'iter_4.pth']
    finally:
        subprocess.run(['umount', disk], check=True)


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
