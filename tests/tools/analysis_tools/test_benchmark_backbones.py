"""Backbones timed beside each other, tried with tiny ones; no time is asserted."""

import json

import pytest
import torch

from mmsec.errors import InputError
from tests.conftest import ROOT, run_tool

VIT = "dict(type='mmsec.ViT', arch=dict(embed_dims=16, depth=4, num_heads=2, mlp_ratio=2), patch_size=8, img_size=64"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import benchmark_backbones

    return benchmark_backbones


def test_time_memory_cost_and_distance_of_each(tmp_path):
    given = [f'plain: {VIT})', f"ToMe: {VIT}, merging=dict(type='ToMe', r=8))"]
    options = ['--shape', 64, 64, '--repeats', 1, '--json', tmp_path / 'out.json']
    printed = run_tool('analysis_tools/benchmark_backbones.py', *given, *options).stdout
    rows = json.loads((tmp_path / 'out.json').read_text())['backbones']
    assert list(rows) == ['plain', 'ToMe']
    for name, row in rows.items():
        assert 0 < row['seconds_min'] <= row['seconds_median'] <= row['seconds_max']
        assert row['peak_bytes'] >= 0
        assert f'| {name} | ' in printed
    assert sum(rows['ToMe']['multiply_adds'].values()) < sum(rows['plain']['multiply_adds'].values())
    assert rows['plain']['distance'] == 0
    assert 0 < rows['ToMe']['distance'] < 1


def test_a_backbone_with_other_weights_has_no_distance(tool):
    shallower = VIT.replace('embed_dims=16', 'embed_dims=16, depth=3').replace('depth=4, ', '')
    configs = dict(tool.read(text) for text in (f'plain: {VIT})', f'again: {VIT})', f'other: {shallower})'))
    found = tool.distances(configs, torch.randn(1, 3, 64, 64))
    assert found == {'plain': 0, 'again': 0, 'other': None}


def test_a_backbone_may_be_written_as_in_a_config(tool):
    name, config = tool.read("a b: dict(type='mmsec.ViT', merging=dict(type='ToMe', r=8), out_indices=(1, 2))")
    assert name == 'a b'
    assert config == dict(type='mmsec.ViT', merging=dict(type='ToMe', r=8), out_indices=(1, 2))
    with pytest.raises(InputError, match='a backbone is given as NAME: dict'):
        tool.read('mmsec.ViT')


def test_the_same_weights_each_time(tool):
    config = tool.read(f'plain: {VIT})')[1]
    first, second = (tool.build(config).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
