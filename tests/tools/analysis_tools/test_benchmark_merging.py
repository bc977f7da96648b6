"""A ViT timed with each merging, tried with a tiny one; no time is asserted."""

import json

import pytest

from mmsec.errors import InputError
from tests.conftest import ROOT

TINY = dict(
    type='mmsec.ViT', arch=dict(embed_dims=16, depth=4, num_heads=2, mlp_ratio=2), patch_size=8, img_size=64, merging={}
)


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import benchmark_merging

    return benchmark_merging


def test_each_backbone_is_timed_at_each_size_in_each_round(tool):
    configs = {'nothing': TINY, 'ToMe r=8': TINY | {'merging': {'type': 'ToMe', 'r': 8}}}
    found = tool.measure(configs, ['64x64', '64x96'], repeats=2)
    assert {name: list(seconds) for name, seconds in found.items()} == {name: ['64x64', '64x96'] for name in configs}
    assert all(len(rounds) == 2 and min(rounds) > 0 for seconds in found.values() for rounds in seconds.values())


def test_a_worker_runs_the_sizes_in_turn(tool):
    run = tool.prepared({'config': TINY, 'shapes': [[64, 64], [64, 96]]})
    assert [run()[-1].shape[2:] for _ in range(3)] == [(8, 8), (8, 12), (8, 8)]


def test_the_mean_is_over_the_images_and_of_each_size_the_median(tool):
    assert tool.mean_seconds({'64x64': [1, 9, 2], '64x96': [7, 7, 0]}, {'64x64': 3, '64x96': 1}) == (3 * 2 + 7) / 4


def test_times_of_the_trained_vit_are_written_beside_those_of_other_sets(tool, monkeypatch, tmp_path, capsys):
    with pytest.raises(InputError, match="has no finished run of 'vit_s_maskrcnn_nuclei'; run "):
        tool.images_of(tmp_path, 'nuclei')
    runs = {'vit_s_maskrcnn_nuclei': {'0': {'images': {'64x64': 3, '64x96': 1}, 'merging': {}}}}
    (tmp_path / 'backbones.json').write_text(json.dumps({'runs': runs}))
    (tmp_path / 'merging_times.json').write_text('{"camvid": {}}')
    asked = []

    def measure(configs, sizes, repeats):
        asked.append((configs, sizes, repeats))
        return {name: {size: [2.0] if name == 'nothing' else [1.0] for size in sizes} for name in configs}

    monkeypatch.setattr(tool, 'measure', measure)
    monkeypatch.setattr('sys.argv', ['x', '--data', 'nuclei', '--repeats', '1', '--out', str(tmp_path)])
    tool.main()
    ((configs, sizes, repeats),) = asked
    assert (sizes, repeats) == (['64x64', '64x96'], 1)
    assert configs['ToMe r=4']['merging'] == {'type': 'ToMe', 'r': 4}
    assert configs['nothing']['merging'] == {}
    assert {config['arch'] for config in configs.values()} == {'small'}
    written = json.loads((tmp_path / 'merging_times.json').read_text())
    assert list(written) == ['camvid', 'nuclei']
    assert written['nuclei']['images'] == {'64x64': 3, '64x96': 1}
    assert written['nuclei']['seconds']['nothing'] == 2
    assert written['nuclei']['seconds']['Expedit 0.5'] == 1
    assert 'ToMe r=4: 1.000 s, 0.50 of the first' in capsys.readouterr().out
