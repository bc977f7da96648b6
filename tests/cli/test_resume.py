"""Which checkpoint a run goes on from."""

import argparse
import os
import re

import pytest
import torch
from mmengine.config import Config

from mmsec.cli.resume import check_same_run, go_on, newest_whole_checkpoint
from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint
from tools import train


def save(folder, name, iteration, age=0, **meta):
    """A checkpoint that is ``age`` seconds old."""
    path = folder / name
    torch.save({'meta': {'epoch': 0, **meta, 'iter': iteration}, 'state_dict': {'w': torch.rand(500)}}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_the_furthest_whole_checkpoint_is_found_and_damaged_ones_are_named(tmp_path, log):
    assert newest_whole_checkpoint(tmp_path) is None
    save(tmp_path, 'epoch_1.pth', 20, age=30, epoch=1)
    whole = save(tmp_path, 'rolling.pth', 33, age=20, epoch=1)
    truncated = save(tmp_path, 'epoch_2.pth', 40, age=10, epoch=2)
    truncated.write_bytes(truncated.read_bytes()[:700])
    (tmp_path / 'epoch_3.pth').write_bytes(b'')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    (tmp_path / 'epoch_9.pth').symlink_to(tmp_path / 'nowhere.pth')
    path, meta = newest_whole_checkpoint(tmp_path)
    assert (path, meta['iter']) == (str(whole), 33)
    assert [re.search(r'\w+\.pth', message)[0] for message in log] == ['epoch_3.pth', 'epoch_2.pth']


def test_the_most_iterations_win_over_a_later_clock_in_the_run_that_saved_last(tmp_path, log):
    for iteration, age in ((9, 30), (10, 10), (20, 20)):
        save(tmp_path, f'iter_{iteration}.pth', iteration, age, run='b')
    assert newest_whole_checkpoint(tmp_path)[1]['iter'] == 20
    assert re.search(r"iter_20\.pth' is gone on from; .*iter_10\.pth' was written later", log[0])
    save(tmp_path, 'iter_4000.pth', 4000, age=50, run='a')  # of a run before, in the same folder
    assert newest_whole_checkpoint(tmp_path)[1]['iter'] == 4000  # nothing says which is which
    for named, found in (('iter_10.pth', 20), ('iter_4000.pth', 4000), ('gone.pth', 4000)):
        (tmp_path / 'last_checkpoint').write_text(f'/moved/since/{named}')
        assert newest_whole_checkpoint(tmp_path)[1]['iter'] == found


def test_a_checkpoint_that_vanishes_while_it_is_looked_at_is_passed_over(tmp_path, monkeypatch):
    gone = save(tmp_path, 'iter_2.pth', 2)
    save(tmp_path, 'iter_1.pth', 1)

    def read(path):
        gone.unlink(missing_ok=True)  # another process deletes what is too old
        return read_checkpoint(path)

    monkeypatch.setattr('mmsec.cli.resume.read_checkpoint', read)
    assert newest_whole_checkpoint(tmp_path)[1]['iter'] == 1
    monkeypatch.setattr('mmsec.cli.resume.read_checkpoint', lambda path: (path.unlink(), read_checkpoint(path)))
    assert newest_whole_checkpoint(tmp_path) is None


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
