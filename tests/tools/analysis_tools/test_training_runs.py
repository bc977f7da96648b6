"""Runs are done once, several at a time, and kept as rows; what trains is replaced."""

import json
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmsec.errors import InputError
from tests.conftest import ROOT


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import training_runs

    monkeypatch.setattr(training_runs, 'iterations', lambda cfg: 10)
    monkeypatch.setattr(training_runs, 'origin', lambda cfg, threads: {'threads': threads})
    return training_runs


@pytest.fixture
def kept(tool, tmp_path):
    """A new look at the file of rows."""
    from training_rows import Rows

    return lambda: Rows(tmp_path / 'kept/rows.json', tmp_path / 'work')


@pytest.fixture
def run_of(tool):
    from training_rows import Run

    def make(name, seed=0, width=1):
        cfg = Config(dict(default_scope='mmseg', model=dict(width=width), randomness=dict(seed=seed)))
        return Run(name, seed, cfg, lambda cfg: {'parameters': cfg.model.pop('width')})  # as hosts take parts out

    return make


@pytest.fixture
def train(tool, monkeypatch):
    """What is trained, in order; a name that is in ``failing`` fails."""
    seen = SimpleNamespace(started=[], failing={}, threads=set())

    def fake(run, folder, threads, stop):
        seen.started.append(run.title)
        seen.threads.add(threads)
        assert folder.is_dir()
        if run.name in seen.failing:
            raise tool.RunError(seen.failing[run.name])
        return {'minutes': 1.0, 'metrics': {'mIoU': 50.0}, 'loss': {'step': [1, 2], 'value': [0.5, 0.25]}}

    monkeypatch.setattr(tool, 'train_and_measure', fake)
    return seen


def test_a_finished_run_is_a_row_and_is_not_run_again_and_a_failed_one_is_tried_again(tool, kept, run_of, train):
    rows, runs = kept(), [run_of('a'), run_of('b, c=[1]'), run_of('a', seed=1)]
    train.failing['a'] = 'exit code 1: loss is nan'
    tool.run_all([(rows, run) for run in runs])
    assert train.started == ['a, seed 0', 'b, c=[1], seed 0', 'a, seed 1']
    found = json.loads(rows.path.read_text())['runs']
    assert found == kept().runs
    assert found['a']['1']['failed'].startswith('exit code 1: loss is nan (')
    assert found['b, c=[1]']['0']['metrics'] == {'mIoU': 50.0}
    assert found['b, c=[1]']['0']['parameters'] == 1
    assert '"value": [ 0.5, 0.25 ]' in rows.path.read_text()  # curves do not take a line a point

    train.started.clear()
    train.failing.clear()
    runs = [run_of(run.name, run.seed) for run in runs]
    tool.run_all([(again, run) for again in [kept()] for run in runs])  # in a later sitting
    assert train.started == ['a, seed 0', 'a, seed 1']
    assert 'failed' not in kept().row(runs[0])
    train.started.clear()
    tool.run_all([(again, run) for again in [kept()] for run in runs])
    assert train.started == []


def test_two_processes_keep_each_others_rows(kept, run_of, tool, train):
    one, other = kept(), kept()
    tool.run_all([(other, run_of('b'))])
    tool.run_all([(one, run_of('a'))])
    assert sorted(kept().runs) == sorted(one.runs) == ['a', 'b']


def test_rows_do_not_need_work_dirs(tool, kept, run_of, train, tmp_path):
    tool.run_all([(kept(), run_of('a'))])
    (tmp_path / 'work').rename(tmp_path / 'lost')
    tool.run_all([(kept(), run_of('a'))])
    assert train.started == ['a, seed 0']


def test_a_row_or_a_work_dir_of_another_config_is_one_line_before_anything_trains(tool, kept, run_of, train):
    train.failing['b'] = 'no'
    tool.run_all([(rows, run) for rows in [kept()] for run in (run_of('a'), run_of('b'))])
    train.started.clear()
    other = [run_of('new'), run_of('a', width=2)]
    with pytest.raises(
        InputError, match=r"rows\.json' has 'a, seed 0' of another config; name another --out, or delete"
    ):
        tool.run_all([(kept(), run) for run in other])
    other = [run_of('new'), run_of('b', width=2)]  # its row has no figures, but its work dir may have a checkpoint
    with pytest.raises(InputError, match="seed0' holds a run of another config; name another --work-dir, or delete it"):
        tool.run_all([(kept(), run) for run in other])
    assert train.started == []


def test_a_config_is_the_same_however_it_is_laid_out(run_of):
    run = run_of('a')
    moved = Config(dict(randomness=dict(seed=0), model=dict(width=1), default_scope='mmseg'))
    assert type(run)('b', 0, moved, run.count).sha == run.sha
    assert run_of('a', width=2).sha != run.sha
    assert run_of('a', seed=1).sha != run.sha


def test_nothing_new_starts_when_the_time_is_up(tool, kept, run_of, train, monkeypatch, capsys):
    clock = iter(range(0, 1000, 50))  # seconds: 0 at the start, then one look for each run
    monkeypatch.setattr(tool, 'time', SimpleNamespace(monotonic=lambda: next(clock)))
    tool.run_all([(rows, run_of(name)) for rows in [kept()] for name in 'abc'], minutes=1)
    assert train.started == ['a, seed 0']
    assert 'the time is up; the same command goes on with the 2 runs that are left' in capsys.readouterr().out


def test_runs_at_the_same_time_share_the_cores(tool, kept, run_of, train, monkeypatch):
    both = threading.Barrier(2, timeout=30)
    fake = tool.train_and_measure

    def together(*args):
        both.wait()  # breaks where one waits for the other to end
        return fake(*args)

    monkeypatch.setattr(tool, 'train_and_measure', together)
    monkeypatch.setattr(tool, 'cores', lambda: 6)
    rows = kept()
    tool.run_all([(rows, run_of(name)) for name in 'abcd'], jobs=2)
    assert sorted(rows.runs) == list('abcd')
    assert train.threads == {3}


def test_a_bug_ends_what_is_under_way_and_is_no_row(tool, kept, run_of, monkeypatch):
    ended = threading.Event()

    def fake(run, folder, threads, stop):
        if run.name == 'broken':
            raise KeyError('time')
        assert stop.wait(timeout=30)
        ended.set()
        raise tool.RunError('stopped')

    monkeypatch.setattr(tool, 'train_and_measure', fake)
    rows = kept()
    with pytest.raises(KeyError):
        tool.run_all([(rows, run_of('long')), (rows, run_of('broken'))], jobs=2)
    assert ended.is_set()
    assert rows.runs == {}


def test_a_tool_that_fails_says_why(tool, tmp_path):
    log, stop = tmp_path / 'log.txt', threading.Event()
    with pytest.raises(tool.RunError, match='exit code 3: no such thing'):
        tool.call(['-c', 'print("a\\nno such thing"); raise SystemExit(3)'], log, 1, stop)
    ours = 'print("error: two\\nlines, and a difference:\\n+ 1"); raise SystemExit(1)'
    with pytest.raises(tool.RunError, match=r'^exit code 1: error: two$'):
        tool.call(['-c', ours], log, 1, stop)
    with pytest.raises(tool.RunError, match=r'^exit code 4: no output$'):  # what an earlier tool said is not its reason
        tool.call(['-c', 'raise SystemExit(4)'], log, 1, stop)
    tool.call(['-c', 'import os; print("threads", os.environ["OMP_NUM_THREADS"])'], log, 3, stop)
    assert log.read_text().splitlines()[-1] == 'threads 3'


def test_memory_is_that_of_the_tool_and_not_of_who_started_it(tool, tmp_path):
    ours = bytearray(2**28)
    ours[:: 2**12] = b'x' * (len(ours) // 2**12)  # what is never written takes no memory
    small, large = ('import time; time.sleep(1)', 'import time; held = b"x" * 2**27; time.sleep(1)')
    assert 2**20 < tool.call(['-c', small], tmp_path / 'log', 1, threading.Event()) < 2**26
    assert 2**27 < tool.call(['-c', large], tmp_path / 'log', 1, threading.Event()) < 2**28


def test_a_tool_that_is_stopped_is_told_so_and_waited_for(tool, tmp_path):
    log, stop = tmp_path / 'log.txt', threading.Event()
    program = (
        'import signal, sys, time\n'
        'def save(*_): time.sleep(0.2); print("saved", flush=True); sys.exit(75)\n'
        'signal.signal(signal.SIGTERM, save)\n'
        'print("started", flush=True)\n'
        'time.sleep(60)'
    )

    def end() -> None:
        while not log.is_file() or 'started' not in log.read_text():
            time.sleep(0.05)
        stop.set()

    threading.Thread(target=end).start()
    with pytest.raises(tool.RunError, match='stopped'):
        tool.call(['-c', program], log, 1, stop)
    assert log.read_text() == 'started\nsaved\n'


def test_what_was_logged_in_several_sittings_counts_once(tool, tmp_path):
    for name, lines in {
        '1': ['{"loss": 3, "step": 5}', '{"loss": 2, "step": 10}', '{"mIoU": 9, "step": 10}'],
        '2': ['{"loss": 1, "step": 10}', '{"loss": 0, "st'],
    }.items():
        file = tmp_path / name / 'vis_data/scalars.json'
        file.parent.mkdir(parents=True)
        file.write_text('\n'.join(lines))
    assert tool.scalars(tmp_path) == [{'loss': 3, 'step': 5}, {'loss': 1, 'step': 10}]


def test_a_long_curve_keeps_its_ends(tool):
    assert tool.thinned([1, 2, 3]) == [1, 2, 3]
    thin = tool.thinned(list(range(1000)))
    assert (len(thin), thin[0], thin[-1]) == (50, 0, 999)


def test_multiply_adds_are_the_mean_over_images_of_all_sizes(tool, monkeypatch):
    import training_rows

    widths = [8, 4, 8, 4, 8, 4, 8, 4]
    data = [{'inputs': torch.zeros(3, 2, width, dtype=torch.uint8)} for width in widths]
    monkeypatch.setattr(training_rows.DATASETS, 'build', lambda cfg: data)
    cfg = Config(dict(test_dataloader=dict(dataset=dict())))

    def sizes(images):
        return [(tuple(image.shape), number) for image, number in images]

    images = training_rows.images_by_size(cfg)
    assert sizes(images) == [((1, 3, 2, 8), 4), ((1, 3, 2, 4), 4)]
    model = torch.nn.Conv2d(3, 5, 1)
    assert training_rows.mean_multiply_adds(images, model, model) == 2 * 6 * 3 * 5
    monkeypatch.setattr(training_rows, 'COUNTED', 3)  # every third of eight
    assert sizes(training_rows.images_by_size(cfg)) == [((1, 3, 2, 8), 2), ((1, 3, 2, 4), 1)]
