"""The runs of docs/evidence.md: what is planned, what is missing, what is measured. Nothing trains here."""

import json
import sys
import threading
from pathlib import Path

import pytest

from mmsec.cli.config import load_config
from tests.conftest import ROOT, small_checkpoint, small_run

VIT = 'mmseg/evidence/vit_s_upernet_camvid.py'


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import evidence

    return evidence


@pytest.fixture
def sections(tool):
    import evidence_runs

    return evidence_runs


def call(tool, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['evidence.py', *map(str, arguments)])
    tool.main()


def row(**changes):
    return {'sha': '', 'minutes': 30.0, 'minutes_measuring': 10.0} | changes


def test_each_backbone_runs_once_before_any_runs_twice(sections, tmp_path):
    found = sections.sections(['backbones', 'semantic', 'merging', 'transfer'], tmp_path, tmp_path)
    titles = [run.title for run in found['backbones'].runs]
    assert len(titles) == len(set(titles)) == 2 * (3 * 2 + 3)
    assert [run.seed for run in found['backbones'].runs] == [0] * 12 + [1] * 6
    assert {run.cfg.randomness.seed for run in found['backbones'].runs} == {0, 1}
    assert {run.title for run in found['semantic'].runs + found['merging'].runs} < set(titles)
    assert len({run.sha for run in found['backbones'].runs}) == len(titles)
    kinds = {run.name: len(run.measurements) for run in found['backbones'].runs + found['transfer'].runs}
    measured = {name for name, count in kinds.items() if count}
    assert measured == {
        f'{name}_{data}' for name in ('secvit_t', 'vit_s') for data in ('maskrcnn_nuclei', 'upernet_camvid')
    }


def test_schedule_heads_and_data_of_all_backbones_are_those_of_the_baseline(sections, tmp_path):
    runs = sections.sections(['backbones'], tmp_path, tmp_path)['backbones'].runs
    for data in sections.DATA:
        baseline, *others = [run.cfg for run in runs if run.name.endswith(data) and run.seed == 0]
        for cfg in others:
            same = set(baseline) - {'model'}
            assert {name for name in same if cfg[name] != baseline[name]} == set()
            heads = [name for name in baseline.model if name not in ('type', 'backbone', 'neck')]
            for name in heads:
                ours, theirs = dict(cfg.model[name]), dict(baseline.model[name])
                assert ours | {'in_channels': 0} == theirs | {'in_channels': 0}
            assert cfg.model.backbone.get('drop_path_rate', 0) == 0


def test_groupings_share_all_but_the_grouping(sections, tmp_path):
    found = sections.sections(['groupings', 'clusters'], tmp_path, tmp_path)
    assert len(found['groupings'].runs) == 12 * 3
    assert len(found['clusters'].runs) == 5 * 3
    runs = found['groupings'].runs + found['clusters'].runs
    assert len({run.sha for run in runs}) == len(runs)
    backbones = {run.name: run.cfg.model.backbone for run in runs}
    kept = {
        name: {k: v for k, v in each.items() if k not in ('grouping', 'num_clusters')}
        for name, each in backbones.items()
    }
    assert all(each == kept['SemanticGrouping'] for each in kept.values())
    falling, rising = (backbones[text].num_clusters[2] for text in sections.COUNTS[-2:])
    assert falling == rising[::-1]


def test_the_plan_says_how_to_make_data_that_are_missing_and_writes_nothing(tool, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    call(tool, monkeypatch, '--plan', '--section', 'backbones', 'transfer', '--out', tmp_path / 'out')
    printed = capsys.readouterr().out
    assert (
        "cannot run: 11: 'data/nuclei' not found; make it: python tools/dataset_converters/nuclei.py SOURCE" in printed
    )
    assert "cannot run: 10: 'data/camvid' not found; make it: python tools/dataset_converters/camvid.py" in printed
    assert 'to run: 0' in printed
    assert list(tmp_path.iterdir()) == []
    for path in ('data/nuclei', 'data/camvid'):
        Path(path).mkdir(parents=True)
    monkeypatch.setattr('evidence_runs.check_data', lambda cfg, *splits: None)
    call(tool, monkeypatch, '--plan', '--section', 'transfer', '--out', tmp_path / 'out')
    assert "'work_dirs/demo/secvit_t_maskrcnn_shapes/epoch_3.pth' not found; make it" in capsys.readouterr().out


def test_the_plan_knows_what_is_finished_what_failed_and_how_long_a_run_took(
    tool, sections, monkeypatch, tmp_path, capsys
):
    found = sections.sections(['backbones'], tmp_path, tmp_path)['backbones']
    finished, failed = found.runs[0], found.runs[1]
    found.rows.add(finished, row(sha=finished.sha))
    found.rows.add(failed, row(failed='exit code 1: loss is nan'))
    monkeypatch.setattr(tool, 'missing', lambda cfg: None)
    call(tool, monkeypatch, '--plan', '--section', 'backbones', 'semantic', '--jobs', 2, '--out', tmp_path)
    printed = capsys.readouterr().out
    assert f'  {finished.title}: finished\n' in printed
    assert f'  {failed.title}: failed before, exit code 1: loss is nan; to run, about 40 minutes\n' in printed
    assert 'to run: 17, 2 at the same time, in about 5.7 hours\n' in printed  # those of semantic are no others
    found.rows.add(found.runs[2], row(sha=found.runs[2].sha, minutes=50.0))
    call(tool, monkeypatch, '--plan', '--section', 'backbones', 'groupings', '--out', tmp_path)
    printed = capsys.readouterr().out
    assert f'  {finished.name}, seed 1: to run, about 40 minutes\n' in printed  # as its other seed
    assert f'  {failed.title}: failed before, exit code 1: loss is nan; to run, about 50 minutes\n' in printed
    assert 'SemanticGrouping, seed 0: to run, about ? minutes\n' in printed  # of another file
    assert 'and what 36 need of which no run is known\n' in printed


def test_what_is_left_runs_and_the_page_is_made(tool, sections, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(tool, 'missing', lambda cfg: None)
    monkeypatch.setattr(tool, 'run_all', lambda left, jobs, minutes: started.append((left, jobs, minutes)))
    out = tmp_path / 'evidence'
    call(tool, monkeypatch, '--section', 'merging', '--jobs', 2, '--minutes', 9, '--out', out)
    ((left, *limits),) = started
    assert [run.name for _, run in left] == ['vit_s_maskrcnn_nuclei', 'vit_s_upernet_camvid']
    assert limits == [2, 9]
    assert 'not run yet' in (tmp_path / 'evidence.md').read_text()


def test_a_vit_that_is_trained_and_not_timed_is_timed_behind_the_runs(tool, monkeypatch, tmp_path, capsys):
    commands, order = [], []
    monkeypatch.setattr(tool, 'plan', lambda chosen, jobs: [])
    monkeypatch.setattr(tool, 'run_all', lambda *given: order.append('runs'))
    monkeypatch.setattr(
        tool.subprocess, 'run', lambda command, check: order.append('times') or commands.append(command)
    )
    monkeypatch.setattr(tool, 'write_page', lambda out: order.append('page'))
    call(tool, monkeypatch, '--section', 'merging', '--out', tmp_path)
    assert order == ['runs', 'page']  # nothing is trained
    row = {'merging': {'nothing': {}}}
    runs = {f'vit_s_{name}': {'0': row} for name in ('maskrcnn_nuclei', 'upernet_camvid')}
    (tmp_path / 'backbones.json').write_text(json.dumps({'runs': runs}))
    (tmp_path / 'merging_times.json').write_text('{"camvid": {}}')
    call(tool, monkeypatch, '--section', 'groupings', '--out', tmp_path)
    assert commands == []  # not asked for
    capsys.readouterr()
    call(tool, monkeypatch, '--section', 'merging', '--out', tmp_path)
    assert 'times of merging: to measure behind the runs, a few minutes for each of nuclei\n' in capsys.readouterr().out
    assert order[-3:] == ['runs', 'times', 'page']
    ((_, script, *options),) = commands
    assert script.name == 'benchmark_merging.py'
    assert options == ['--data', 'nuclei', '--out', tmp_path]


@pytest.fixture
def vit(shapes, tmp_path):
    """A small config of the ViT of the evidence, on generated shapes."""
    split = {'img_path': 'images/validation', 'seg_map_path': 'annotations/validation'}
    return small_run(VIT, shapes, tmp_path, **{'test_dataloader.dataset.data_prefix': split})


def test_the_trained_vit_is_tested_with_each_merging(sections, monkeypatch, vit, tmp_path):
    from training_rows import Trained
    from training_runs import call

    settings = {'nothing': {}, 'PiToMe 0.9': {'type': 'PiToMe', 'ratio': 0.9}}
    monkeypatch.setattr(sections, 'mergings', lambda data: settings)
    calls = []

    def tool(command):
        calls.append(command)
        return call(command, tmp_path / 'log.txt', 1, threading.Event())

    trained = Trained(vit, str(small_checkpoint(vit)), tmp_path / 'work', tool)
    found = sections.with_mergings('camvid')(trained)['merging']
    assert list(found) == list(settings)
    assert all(each['metrics']['mIoU'] >= 0 for each in found.values())
    assert '--cfg-options' not in calls[0]
    assert calls[1][-2:] == ['model.backbone.merging.type=PiToMe', 'model.backbone.merging.ratio=0.9']


def test_every_merging_saves_and_more_of_it_saves_more(sections, vit):
    adds = sections.merged_cost(load_config(str(vit)), 'camvid')['merged_multiply_adds']
    assert list(adds) == list(sections.mergings('camvid'))
    for method in ('ToMe', 'PiToMe', 'Expedit'):
        line = [adds['nothing'], *(value for name, value in adds.items() if name.split()[0] == method)]
        assert line == sorted(set(line), reverse=True)


def test_clusters_are_told_by_stage_beside_random_weights_windows_and_chance(sections, tmp_path):
    def rows(heads):
        common = dict.fromkeys(sections.MEASURES, 0.5) | {'stage': 1, 'clusters': [4, 4], 'nmi_instances': None}
        return [
            *(common | {'grouping': f'head {i}', 'nmi_classes': value} for i, value in enumerate(heads)),
            *(common | {'grouping': name, 'nmi_classes': 0.3} for name in sections.BASELINES),
        ]

    def fake(command):
        out = Path(command[-1])
        out.mkdir(parents=True)
        (out / 'analysis.json').write_text(json.dumps({'rows': rows([0.6, 0.8] if 'last.pth' in command else [0.1])}))
        return 0

    from training_rows import Trained

    found = sections.clusters_and_labels(Trained(Path('c.py'), 'last.pth', tmp_path, fake))['clusters']
    assert [(each['grouping'], round(each['nmi_classes'], 3)) for each in found] == [
        ('trained', 0.7), ('random weights', 0.1), ('windows', 0.3), ('random', 0.3),
    ]  # fmt: skip
    assert found[0]['nmi_instances'] is None
