"""Checkpoints on disks that fill and machines that die."""

import argparse
import errno
import os
import random
import re
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub

from mmsec.cli.resume import check_same_run, go_on, newest_whole_checkpoint
from mmsec.engine.files import write_whole
from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint
from mmsec.registry import HOOKS
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / 'tools'))
import train


def save(folder, name, iteration, age=0):
    """A checkpoint that is ``age`` seconds old."""
    path = folder / name
    torch.save({'meta': {'iter': iteration, 'epoch': 0}, 'state_dict': {'w': torch.rand(500)}}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'new' / 'file'
    write_whole(path, b'one')
    with pytest.raises(TypeError):
        write_whole(path, 'no bytes')
    assert path.read_bytes() == b'one'
    write_whole(path, b'two')
    assert path.read_bytes() == b'two'
    assert os.listdir(path.parent) == ['file']


@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EIO])
def test_a_folder_that_cannot_be_flushed_does_not_fail_the_save(tmp_path, monkeypatch, number):
    flush = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, 'fsync', fsync)
    write_whole(tmp_path / 'file', b'one')
    assert (tmp_path / 'file').read_bytes() == b'one'


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO])
def test_a_file_that_cannot_be_flushed_fails_the_save(tmp_path, monkeypatch, number):
    write_whole(tmp_path / 'file', b'one')

    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        write_whole(tmp_path / 'file', b'two')
    assert (tmp_path / 'file').read_bytes() == b'one'
    assert os.listdir(tmp_path) == ['file']


def test_the_newest_whole_checkpoint_is_found_and_damaged_ones_are_named(tmp_path, log):
    assert newest_whole_checkpoint(tmp_path) is None
    save(tmp_path, 'epoch_1.pth', 20, age=30)
    whole = save(tmp_path, 'rolling.pth', 33, age=20)
    truncated = save(tmp_path, 'epoch_2.pth', 40, age=10)
    truncated.write_bytes(truncated.read_bytes()[:700])
    os.utime(truncated, (1e9 - 10, 1e9 - 10))
    (tmp_path / 'iter_50.pth').write_bytes(b'')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_50.pth'))
    path, meta = newest_whole_checkpoint(tmp_path)
    assert (path, meta['iter']) == (str(whole), 33)
    assert [re.search(r'\w+\.pth', message)[0] for message in log] == ['iter_50.pth', 'epoch_2.pth']


def test_twenty_truncations_and_bit_flips_are_errors_or_harmless(tmp_path):
    path = save(tmp_path, 'epoch_1.pth', 20)
    content, whole = path.read_bytes(), read_checkpoint(path)
    moments = random.Random(1)
    refused = 0
    for i in range(20):
        damaged = bytearray(content)
        if i % 2:
            damaged = damaged[: moments.randrange(len(damaged))]
        else:
            damaged[moments.randrange(len(damaged))] ^= 1 << moments.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = read_checkpoint(path)
        except InputError as error:
            assert 'epoch_1.pth' in str(error)  # noqa: PT017 - or it loads, see below
            refused += 1
        else:  # the bit was one of the zeros between files of the archive
            assert torch.equal(loaded['state_dict']['w'], whole['state_dict']['w'])
            assert loaded['meta'] == whole['meta']
    assert refused >= 15


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'attacked'),)

    torch.save({'state_dict': Attack()}, tmp_path / 'epoch_1.pth')
    with pytest.raises(InputError, match='mkdir'):
        read_checkpoint(tmp_path / 'epoch_1.pth')
    with pytest.raises(InputError, match='none of the 1 checkpoints'):
        newest_whole_checkpoint(tmp_path)
    assert not (tmp_path / 'attacked').exists()


def test_a_checkpoint_of_another_config_is_refused_and_the_difference_shown():
    cfg = Config(
        dict(default_scope='mmdet', model=dict(type='A', depth=3, list_=[1, {'b.c': float('inf')}]), work_dir='x')
    )
    meta = {'cfg': cfg.pretty_text}
    check_same_run(Config({**cfg.to_dict(), 'work_dir': 'y'}), 'c.pth', meta)
    other = Config({**cfg.to_dict(), 'model': dict(type='A', depth=3, list_=[1, {'b.c': 2.0}])})
    with pytest.raises(InputError, match=r"(?s)-.*'b\.c': 'inf'.*\+.*'b\.c': 2\.0"):
        check_same_run(other, 'c.pth', meta)
    cfg.model.depth = 4
    with pytest.raises(InputError, match=r"(?s)'c.pth' was made by another config.*-.*'depth': 3.*\+.*'depth': 4"):
        check_same_run(cfg, 'c.pth', meta)


def test_the_text_of_a_config_in_a_checkpoint_is_not_executed(tmp_path):
    cfg = Config(dict(default_scope='mmdet', model=dict(type='A')))
    text = f'model = __import__("os").mkdir({str(tmp_path / "attacked")!r})'
    with pytest.raises(InputError):
        check_same_run(cfg, 'c.pth', {'cfg': text})
    assert not (tmp_path / 'attacked').exists()


def toy_run(work_dir, max_iters):
    return subprocess.run(
        [sys.executable, '-m', 'tests.cluster.toy_run', str(work_dir), str(max_iters)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_full_disk_fails_the_save_and_not_the_run(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', disk], capture_output=True).returncode:
        pytest.skip('a small tmpfs cannot be mounted here')
    try:
        first = toy_run(disk, 2)
        assert 'was not saved' not in first.stdout + first.stderr
        assert (disk / 'iter_2.pth').exists()
        kept = {path.name: path.read_bytes() for path in disk.glob('iter_*.pth')}
        (disk / 'others').write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - 2**20))
        full = toy_run(disk, 5)
        assert 'finished 5' in full.stdout, full.stdout + full.stderr
        assert "iter_3.pth' was not saved: [Errno 28] No space left on device" in full.stdout + full.stderr
        assert {path.name: path.read_bytes() for path in disk.glob('iter_*.pth')} == kept
        assert (disk / 'last_checkpoint').read_text().endswith('iter_2.pth')
        assert not list(disk.glob('.*tmp'))
        (disk / 'others').unlink()
        again = toy_run(disk, 4)
        assert 'resumed 2 optimizer schedule average' in again.stdout
        assert sorted(path.name for path in disk.glob('iter_*.pth')) == ['iter_3.pth', 'iter_4.pth']
    finally:
        subprocess.run(['umount', disk], check=True)


@pytest.mark.parametrize(
    'elsewhere', [dict(backend_args=dict(backend='petrel')), dict(out_dir='x'), dict(filename_tmpl='x_{}.pth')]
)
def test_other_places_are_refused(elsewhere):
    hook = HOOKS.build(dict(type='mmsec.WholeCheckpointHook', **elsewhere))
    with pytest.raises(ValueError, match=rf'where --resume auto looks; got {next(iter(elsewhere))}='):
        hook.before_train(None)


def test_the_best_checkpoint_outlives_a_save_that_fails(tmp_path):
    hook = HOOKS.build(dict(type='mmsec.WholeCheckpointHook', by_epoch=False, save_best='auto', rule='greater'))
    hook.out_dir, hook.file_backend = str(tmp_path), None
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


def test_a_restart_goes_on_from_the_work_dir_or_else_from_the_path_that_it_was_given(tmp_path, log):
    given = str(save(tmp_path, 'given.pth', 5))
    work_dir = tmp_path / 'work'
    work_dir.mkdir()

    def found(resume, restarted):
        checkpoint = train.find_checkpoint(argparse.Namespace(resume=resume, restarted=restarted), str(work_dir))
        return checkpoint and checkpoint[0]

    assert found(None, False) is None
    assert log == []
    assert found(None, True) is None
    assert 'the run starts from scratch' in log[0]
    assert found(given, True) == given
    own = str(save(work_dir, 'rolling.pth', 8))
    assert found(given, True) == own
    assert found(given, False) == given
    assert found('auto', False) == found(None, True) == own


def test_a_run_goes_on_with_the_seed_it_had():
    cfg = Config(dict(load_from=None, resume=False))
    go_on(cfg, 'c.pth', {'seed': 5})
    assert (cfg.load_from, cfg.resume, cfg.randomness.seed) == ('c.pth', True, 5)
    cfg = Config(dict(randomness=dict(seed=3, deterministic=True)))
    go_on(cfg, 'c.pth', {'seed': 5})
    assert cfg.randomness == dict(seed=3, deterministic=True)
