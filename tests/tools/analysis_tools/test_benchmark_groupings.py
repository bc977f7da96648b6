"""The benchmark of groupings, tried with tiny settings; no time is asserted."""

import json
import sys

import pytest
import torch

from mmsec.errors import InputError
from mmsec.ops.grouping import GROUPINGS
from tests.conftest import ROOT

TINY = ['--arch', 'tiny', '--shape', '64', '64', '--repeats', '1', '--device', 'cpu']


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import benchmark_groupings

    return benchmark_groupings


def run(tool, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['benchmark_groupings.py', *TINY, *map(str, arguments)])
    tool.main()


def test_every_grouping_is_measured_beside_the_published_one(tool, monkeypatch, tmp_path, capsys):
    run(tool, monkeypatch, '--alone', '--json', tmp_path / 'out.json')
    content = json.loads((tmp_path / 'out.json').read_text())
    assert set(content) == {'machine', 'settings', 'groupings'}
    printed = capsys.readouterr().out
    for clusters, rows in content['groupings'].items():
        assert set(rows) == set(GROUPINGS)
        published = rows['SemanticGrouping']
        assert published['ratio'] == 1
        for name, row in rows.items():
            assert 0 < row['seconds_min'] <= row['seconds_median'] <= row['seconds_max']
            assert row['ratio'] == pytest.approx(row['seconds_median'] / published['seconds_median'])
            assert f'| {tool.CLUSTERS[clusters]} | {name} |' in printed


def test_the_whole_backbone_is_measured_with_the_named_options(tool, monkeypatch, tmp_path):
    compared = []

    def compare(side, rivals, repeats):
        compared.append((side, rivals))
        row = {'settings': {}, 'seconds_median': 2.0, 'seconds_min': 1.0, 'seconds_max': 3.0, 'peak_bytes': 7}
        return {'secvit': row} | {name: row | {'seconds_median': 3.0} for name in rivals}

    monkeypatch.setattr(tool, 'compare', compare)  # which starts a process for each side
    run(tool, monkeypatch, '--grouping', 'WindowGrouping', 'shift=True', '--json', tmp_path / 'out.json')
    assert [side.clusters for side, _ in compared] == ['published', 'size']
    for side, rivals in compared:
        assert side.grouping == dict(type='SemanticGrouping')
        assert {name: each.grouping for name, each in rivals.items()} == {
            'WindowGrouping shift=True': dict(type='WindowGrouping', shift=True)
        }
    rows = json.loads((tmp_path / 'out.json').read_text())['groupings']['size']
    assert rows['WindowGrouping shift=True']['backbone']['ratio'] == 1.5
    assert rows['SemanticGrouping']['backbone']['ratio'] == 1


def test_what_is_timed_groups_as_often_as_a_pass_of_the_backbone(tool, monkeypatch):
    counts = []
    forward = GROUPINGS['WindowGrouping'].forward

    def count(self, tokens, num_clusters):
        counts.append((tokens.size, num_clusters))
        return forward(self, tokens, num_clusters)

    monkeypatch.setattr(GROUPINGS['WindowGrouping'], 'forward', count)
    grouping = dict(type='WindowGrouping')
    side = tool.Side('secvit', 'tiny', (70, 90), 1, 'size', 'infer', 'float32', False, 'cpu', grouping)
    tool.grouping_alone(side)()
    alone, counts[:] = list(counts), []
    with torch.no_grad():
        tool.secvit(side).eval()(torch.randn(1, 3, 70, 90))
    assert alone == counts
    assert alone


def test_nothing_to_compare_with_is_one_line(tool, monkeypatch):
    with pytest.raises(InputError, match='name at least one besides SemanticGrouping'):
        run(tool, monkeypatch, '--grouping', 'SemanticGrouping')
