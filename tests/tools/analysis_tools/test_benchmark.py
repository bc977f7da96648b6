"""Each subcommand of benchmark.py, tried on tiny models in one process. No time is asserted."""

import json

import benchmark as tool
import pytest
import timing
import torch
from mmengine.config import Config

from mmsec.errors import InputError
from mmsec.ops.grouping import GROUPINGS
from tests.conftest import DETECTOR, ROOT, shrink_model

VIT = "dict(type='mmsec.ViT', arch=dict(embed_dims=16, depth=4, num_heads=2, mlp_ratio=2), patch_size=8, img_size=64"
TINY = ['--repeats', '1', '--shape', '64', '64']
DEVICE = ['--device', 'cpu', '--arch', 'tiny']


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Sides run in this process."""

    class Here:
        error, peak_bytes = None, 7

        def __init__(self, prepare, task):
            self.run = prepare(task)

        def turn(self, *args):
            return timing.seconds_of(self.run, *args)

        def end(self):
            pass

    monkeypatch.setattr(timing, 'Worker', Here)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_num_threads()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[:2]
    torch.set_num_threads(before[2])


@pytest.fixture
def call(tmp_path):
    """A function that runs a subcommand and gives what it writes."""

    def run(*arguments) -> dict:
        tool.main([*map(str, arguments), '--json', str(tmp_path / 'new/out.json')])
        content = json.loads((tmp_path / 'new/out.json').read_text())
        assert content.pop('machine').keys() == {'cpu', 'threads', 'gpu', 'torch'}
        return content

    return run


@pytest.fixture
def small_mask_rcnn(monkeypatch):
    """Mask R-CNN of few channels."""
    load_config = tool.parts.load_config

    def small(path):
        cfg = load_config(path)
        shrink_model(cfg)
        cfg.model.train_cfg.rcnn.sampler.num = 8
        return cfg

    monkeypatch.setattr(tool.parts, 'load_config', small)


def spread(row):
    """Whether median and spread of a row are in order."""
    return 0 < row['seconds_min'] <= row['seconds_median'] <= row['seconds_max']


@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_backbone_stands_beside_its_baselines(call, mode):
    against = ['--against', 'reference', 'swin_t', 'quarter', 'float32']
    options = ['--share', '--dtype', 'bfloat16', '--mode', mode, *against]
    content = call('backbone', '--repeats', 1, '--shape', 96, 96, *DEVICE, *options)
    assert list(content['sides']) == ['secvit', *against[1:]]
    first = content['sides'].pop('secvit')
    for row in content['sides'].values():
        assert spread(row)
        assert row['seconds_median_ratio'] == pytest.approx(row['seconds_median'] / first['seconds_median'])
        assert row['peak_bytes_ratio'] == 1
        assert row['settings'] != first['settings']
    assert first['settings']['shape'] == [96, 96]
    assert set(content['clustering']) == {'clustering', 'attention_layers', 'share'}


def test_backbones_have_speed_cost_and_distance(call, capsys, tmp_path):
    given = [f'plain: {VIT})', f"ToMe: {VIT}, merging=dict(type='ToMe', r=8))"]
    rows = call('backbones', *given, *TINY, '--plot', tmp_path / 'plot.png')['backbones']
    assert list(rows) == ['plain', 'ToMe']
    assert all(spread(row) for row in rows.values())
    assert sum(rows['ToMe']['multiply_adds'].values()) < sum(rows['plain']['multiply_adds'].values())
    assert rows['plain']['distance'] == 0
    assert 0 < rows['ToMe']['distance'] < 1
    assert '| ToMe | ' in capsys.readouterr().out
    assert (tmp_path / 'plot.png').stat().st_size > 1000


def test_a_backbone_with_other_weights_has_no_distance():
    shallower = VIT.replace('depth=4', 'depth=3')
    configs = dict(tool.whole.read(text) for text in (f'plain: {VIT})', f'again: {VIT})', f'other: {shallower})'))
    found = tool.whole.distances(configs, torch.randn(1, 3, 64, 64))
    assert found == {'plain': 0, 'again': 0, 'other': None}
    with pytest.raises(InputError, match='it is given as NAME: dict'):
        tool.whole.read('mmsec.ViT')


def test_groupings_stand_beside_the_published_one(call):
    settings = [*TINY, *DEVICE]
    for options in (['--alone'], ['--grouping', 'WindowGrouping', 'shift=True']):
        content = call('groupings', *settings, *options)['groupings']
        assert set(content) == {'published', 'size'}
        for rows in content.values():
            names = GROUPINGS if '--alone' in options else ['SemanticGrouping', 'WindowGrouping shift=True']
            assert set(rows) == set(names)
            published = rows['SemanticGrouping']
            for row in rows.values():
                assert spread(row)
                assert row['seconds_median_ratio'] == pytest.approx(row['seconds_median'] / published['seconds_median'])
                assert '--alone' in options or spread(row['backbone'])
    with pytest.raises(InputError, match='name at least one besides SemanticGrouping'):
        call('groupings', *settings, '--grouping', 'SemanticGrouping')


def test_what_is_timed_groups_as_often_as_a_pass_of_the_backbone(monkeypatch):
    counts = []
    forward = GROUPINGS['WindowGrouping'].forward

    def count(self, tokens, num_clusters):
        counts.append((tokens.size, num_clusters))
        return forward(self, tokens, num_clusters)

    monkeypatch.setattr(GROUPINGS['WindowGrouping'], 'forward', count)
    grouping = dict(type='WindowGrouping')
    side = tool.whole.Side('secvit', 'tiny', (70, 90), 1, 'size', 'infer', 'float32', False, 'cpu', grouping)
    tool.whole.grouping_alone(side)()
    alone, counts[:] = list(counts), []
    with torch.no_grad():
        tool.whole.secvit(side).eval()(torch.randn(1, 3, 70, 90))
    assert alone == counts
    assert alone


def test_mergings_are_timed_at_each_size(call, tmp_path):
    config = tmp_path / 'vit.py'
    config.write_text(f"default_scope = 'mmdet'\nmodel = dict(backbone={VIT}))\n")
    merging = "half: {'type': 'ToMeSD', 'ratio': 0.5}"
    content = call('merging', config, '--merging', merging, '--sizes', '64x64', '32x72', '--repeats', 2)
    for name in ('nothing', 'half'):
        assert {size: len(each) for size, each in content['rounds'][name].items()} == {'64x64': 2, '32x72': 2}
        assert min(content['rounds'][name]['32x72']) <= content['seconds'][name]['32x72']


def test_density_peaks_have_a_row_for_each_stage_that_clusters(call):
    content = call('density-peaks', '--arch', 'b1', '--shape', 64, 96, '--repeats', 1)
    rows = content['stages']
    sizes = [(row['stage'], row['tokens'], row['channels']) for row in rows]
    assert sizes == [(1, 384, 64), (2, 96, 128), (3, 24, 256)]
    for row in rows:
        assert row['ratio'] == pytest.approx(row['in_blocks_seconds'] / row['whole_matrix_seconds'])
        assert row['agreement'] > 0.9
    whole = sum(row['blocks'] * row['whole_matrix_seconds'] for row in rows)
    assert content['all_blocks']['whole_matrix_seconds'] == pytest.approx(whole)


@pytest.mark.usefixtures('small_mask_rcnn')
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_detectors_run(call, mode, dtype):
    rows = call('detector', *TINY, *DEVICE, '--mode', mode, '--dtype', dtype)['rows']
    assert [name for name, row in rows.items() if spread(row)] == ['published counts', 'clusters of 98', 'Swin-T']


@pytest.mark.usefixtures('small_mask_rcnn')
def test_optimizers_take_a_step(call):
    rows = call('optimizer', '--repeats', 1, *DEVICE)['rows']
    assert [name for name, row in rows.items() if spread(row)] == list(tool.parts.OPTIMIZERS)


def test_onnxruntime_is_timed_beside_torch(call, capsys, tmp_path):
    pytest.importorskip('onnxruntime')
    cfg = Config.fromfile(ROOT / 'configs' / DETECTOR)
    shrink_model(cfg)
    cfg.model.backbone.arch.depths = (1, 1, 1, 1)
    cfg.dump(tmp_path / 'detector.py')
    content = call('onnx', tmp_path / 'detector.py', *TINY, '--backbone', '--threads', 1, '--against', 'eager')
    assert [name for name, row in content['rows'].items() if spread(row)] == ['onnxruntime', 'eager']
    assert '| onnxruntime | ' in capsys.readouterr().out


def test_the_table_of_make_bench_is_in_docs(tmp_path):
    for command in (*tool.TABLE.values(), *tool.GPU_TABLE.values()):
        tool.parse_args(command.split())
    args = tool.parse_args(['all', '--minutes', '-1'])
    files = tool.measure_table(tool.TABLE, '', args, keep=True)
    assert list(files) == list(tool.TABLE)  # all are there: nothing is measured
    sizes = {name: json.loads(path.read_text()) for name, path in files.items() if name.startswith('size')}
    tool.draw(sizes, tmp_path / 'plot.png')
    assert (tmp_path / 'plot.png').stat().st_size > 1000


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ('density-peaks --batch 0', '--batch must be at least 1, got 0'),
        ('detector --shape 16 64', '--shape must be at least 32 32, got 16 64'),
        ('merging vit.py --merging a --sizes 64', '--sizes must be such as 800x1344, got 64'),
        ('backbone --device cpu --graph', 'a CPU has no CUDA graphs'),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, arguments, said):
    with pytest.raises(SystemExit):
        tool.parse_args(arguments.split())
    assert said in capsys.readouterr().err
