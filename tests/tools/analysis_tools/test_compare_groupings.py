"""Groupings trained side by side, tried with a model and a data set that are tiny."""

import json
import sys

import cv2
import pytest
from mmengine.config import Config

from mmsec.errors import InputError
from tests.conftest import DETECTOR, ROOT, SEGMENTER, run_tool, small_run

TOOL = 'analysis_tools/compare_groupings.py'


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import compare_groupings

    return compare_groupings


def compare(tool, monkeypatch, config, *arguments):
    monkeypatch.setattr(sys, 'argv', ['compare_groupings.py', *map(str, [config, *arguments])])
    tool.main()


def test_two_groupings_are_trained_measured_and_gone_on_with(shapes, tmp_path, tool, monkeypatch, capsys):
    import training_rows

    config, out = small_run(SEGMENTER, shapes, tmp_path), tmp_path / 'out'
    groupings = ['WindowGrouping shift=True', 'SemanticGrouping num_clusters=1,1,1,1']
    options = ['--seeds', 1, '--iters', 2, '--images', 2, '--out', out, '--groupings', *groupings]
    folder = out / 'WindowGrouping_shift=True/seed0'  # of a sitting at another revision
    folder.mkdir(parents=True)
    (folder / 'revisions').write_text('0123456789ab\n')
    printed = run_tool(TOOL, config, *options).stdout
    content = json.loads((out / 'comparison.json').read_text())
    assert content['metric'] == 'mIoU'
    assert list(content['summary']) == groupings
    for text, row in content['summary'].items():
        assert row['values'] == [content['runs'][text]['0']['metrics']['mIoU']]
        assert row['mean'] == row['values'][0]
        assert row['seconds_per_iteration'] > 0
        assert row['peak_bytes'] > 2**26
        assert f'| {text} | {row["mean"]:.4g} | - | 1 | {row["seconds_per_iteration"]:.3f} |' in printed
    windows, one = content['summary'].values()
    assert windows['nmi'] is not None
    assert one['nmi'] is None  # one cluster says nothing of labels
    now = training_rows.revision()
    assert [content['runs'][text]['0']['git'] for text in groupings] == [f'0123456789ab, {now}', now]
    assert windows['multiply_adds'] < one['multiply_adds']  # attention to all tokens costs more
    assert cv2.imread(str(out / 'comparison.png')).shape[1] == 1200
    backbones = {path.parts[-2]: Config.fromfile(path).model.backbone for path in out.glob('*/seed0.py')}
    assert backbones['WindowGrouping_shift=True'].grouping == dict(type='WindowGrouping', shift=True)
    assert backbones['SemanticGrouping_num_clusters=1,1,1,1'].num_clusters == (1, 1, 1, 1)

    # A second sitting does what is left: a failed run and a new seed; nothing else starts again.
    before = content['runs'][groupings[0]].pop('0')
    content['runs'][groupings[0]]['0'] = {'failed': 'exit code 1: no space left'}
    (out / 'comparison.json').write_text(json.dumps(content))
    started = []

    def train(run, folder, threads, stop):
        started.append('/'.join(folder.parts[-2:]))
        if folder.name == 'seed1':
            raise tool.RunError('exit code 1: loss is nan')
        return dict(before, metrics={'mIoU': 50.0})

    monkeypatch.setattr('training_runs.train_and_measure', train)
    compare(tool, monkeypatch, config, '--seeds', 2, *options[2:-2], groupings[0])
    assert started == ['WindowGrouping_shift=True/seed0', 'WindowGrouping_shift=True/seed1']
    printed = capsys.readouterr().out
    assert '| WindowGrouping shift=True | 50 | - | 1, 1 failed |' in printed
    assert 'failed: WindowGrouping shift=True, seed 1: exit code 1: loss is nan' in printed
    kept = json.loads((out / 'comparison.json').read_text())['runs']
    assert kept[groupings[1]] == content['runs'][groupings[1]]  # of which this sitting was not asked
    with pytest.raises(
        InputError, match=r"has 'WindowGrouping shift=True, seed 0' of another config; name another --out"
    ):
        compare(tool, monkeypatch, config, *options[:2], '--iters', 3, *options[4:-2], groupings[0])


def result(metric, seconds=1.0, **place):
    """A finished run, made up."""
    where = {'cpu': 'a CPU', 'gpu': None, 'threads': 1} | place
    cost = dict(seconds_per_iteration=seconds, peak_bytes=1, nmi=None, multiply_adds=5)
    return {'metrics': {'coco/segm_mAP': metric}} | cost | where


def test_mean_and_spread_are_over_seeds(tool):
    runs = {'A': {'0': result(0.1), '1': result(0.3), '2': {'failed': 'no'}}, 'B': {'0': {'failed': 'no'}}}
    metric, rows = tool.summary(runs)
    assert metric == 'coco/segm_mAP'
    assert rows['A']['mean'] == pytest.approx(0.2)
    assert rows['A']['std'] == pytest.approx(0.1 * 2**0.5)
    assert rows['B']['mean'] is None
    assert '| B | - | - | 0, 1 failed | - | - | - | - |' in tool.table(metric, rows)
    assert tool.summary({'B': runs['B']})[0] is None


def test_seconds_of_another_machine_are_left_out(tool):
    runs = {
        'A': {'0': result(0.1, 2.0), '1': result(0.2, 3.0), '2': result(0.3, 0.1, cpu='another')},
        'B': {'0': result(0.1, 5.0), '1': result(0.2, 0.2, threads=2), '2': result(0.3, 0.3, gpu='a GPU')},
        'C': {'0': result(0.1, 0.1, cpu='another')},
    }
    timed = {text: (row['seconds_per_iteration'], row['timed_on']) for text, row in tool.summary(runs)[1].items()}
    assert timed == {'A': (2.5, 'a CPU, threads: 1'), 'B': (5.0, 'a CPU, threads: 1'), 'C': (None, None)}


def test_every_run_that_fails_is_a_row_and_one_line_says_so(shapes, tmp_path, tool, monkeypatch):
    def train(run, folder, threads, stop):
        raise tool.RunError('exit code 1: loss is nan')

    monkeypatch.setattr('training_runs.train_and_measure', train)
    config, out, work = small_run(SEGMENTER, shapes, tmp_path), tmp_path / 'out', tmp_path / 'work'
    with pytest.raises(InputError, match='every run failed; the first: exit code 1: loss is nan'):
        compare(tool, monkeypatch, config, '--out', out, '--work-dir', work, '--groupings', 'WindowGrouping')
    assert list(json.loads((out / 'comparison.json').read_text())['runs']['WindowGrouping']) == ['0', '1', '2']
    assert [path.name for path in out.iterdir()] == ['comparison.json']
    assert sorted(path.name for path in work.glob('*/*.py')) == ['seed0.py', 'seed1.py', 'seed2.py']


@pytest.mark.parametrize(
    ('grouping', 'message'),
    [
        ('WindowsGrouping', "one of .* got 'WindowsGrouping'"),
        ('WindowGrouping shfit=True', "no option 'shfit'"),
        ('WindowGrouping num_clusters=8,4', 'num_clusters must have one value per stage, 4, got'),
        ('WindowGrouping num_clusters=a', "num_clusters must be numbers such as 32,8,2,1, got 'a'"),
        ('', 'a grouping must have a name, got nothing'),
    ],
)
def test_what_is_not_there_is_one_line_before_anything_trains(shapes, tmp_path, tool, monkeypatch, grouping, message):
    config = small_run(DETECTOR, shapes, tmp_path)
    with pytest.raises(InputError, match=message):
        compare(tool, monkeypatch, config, '--out', tmp_path / 'out', '--groupings', grouping)
    assert not (tmp_path / 'out').exists()
