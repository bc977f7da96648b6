"""Both ways are tried on a small image; no time is asserted."""

import json

import pytest
import torch

from mmsec.ops.merging.density_peaks import density_peak_merging
from tests.conftest import ROOT, run_tool


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import benchmark_density_peaks

    return benchmark_density_peaks


def test_both_ways_find_the_same_clusters(tool):
    x = torch.randn(2, 12, 10, 8, dtype=torch.float64)
    ours = [merging.assignment for merging in density_peak_merging(x, (3, 30))]
    for one, other in zip(ours, tool.whole_matrix(x, (3, 30)), strict=True):
        assert torch.equal(one, other)


def test_each_stage_that_clusters_has_a_row(tmp_path):
    options = ['--arch', 'b1', '--shape', 64, 96, '--repeats', 1, '--json', tmp_path / 'out.json']
    printed = run_tool('analysis_tools/benchmark_density_peaks.py', *options).stdout
    found = json.loads((tmp_path / 'out.json').read_text())
    rows = found['stages']
    assert [(row['stage'], row['tokens'], row['channels']) for row in rows] == [
        (1, 384, 64),
        (2, 96, 128),
        (3, 24, 256),
    ]
    for row in rows:
        assert row['ratio'] == pytest.approx(row['in_blocks_seconds'] / row['whole_matrix_seconds'])
        assert row['agreement'] > 0.9
        assert f'| {row["stage"]} | {row["tokens"]} | {row["channels"]} | ' in printed
    whole = sum(row['blocks'] * row['whole_matrix_seconds'] for row in rows)
    assert found['all_blocks']['whole_matrix_seconds'] == pytest.approx(whole)
    assert '| all blocks | ' in printed
