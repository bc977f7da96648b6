"""The GPU benchmark, tried on a CPU with tiny settings."""

import importlib.util
import json
import sys

import pytest
import torch

from tests.conftest import ROOT, run_tool, shrink_model


@pytest.fixture
def tool(monkeypatch):
    """tools/analysis_tools/benchmark_gpu.py as a module."""
    monkeypatch.syspath_prepend(ROOT / 'tools/analysis_tools')
    spec = importlib.util.spec_from_file_location('benchmark_gpu', ROOT / 'tools/analysis_tools/benchmark_gpu.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield module
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_it_writes_figures_table_and_plot_and_goes_on_where_it_stopped(tool, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')  # of the process that measures

    def run(*sections) -> str:
        options = ['--device', 'cpu', '--arch', 'tiny', '--shapes', '64x64', '--batches', '1', '--dtypes', 'float32']
        options += ['--repeats', '1', '--out', str(tmp_path), '--sections', *sections]
        monkeypatch.setattr(sys, 'argv', ['benchmark_gpu.py', *options])
        tool.main()
        return capsys.readouterr().out

    assert run('attention').count('attention, training, 1x3x64x64, float32') == 1
    assert 'attention, training' not in run('attention', 'backbone')
    cells = json.loads((tmp_path / 'gpu_cpu.json').read_text())['cells']
    assert set(cells) == {
        'attention, training, 1x3x64x64, float32',
        'backbone, inference, 1x3x64x64, float32',
        'backbone, training, 1x3x64x64, float32',
    }
    for mode in ('training', 'inference'):
        backbone = cells[f'backbone, {mode}, 1x3x64x64, float32']
        assert set(backbone) == {'published counts', 'reference', 'clusters of 98', 'Swin-T'}
        assert all(0 < row['range'][0] <= row['seconds'] <= row['range'][1] for row in backbone.values())
    table = (tmp_path / 'gpu_cpu.md').read_text()
    ratio = backbone['reference']['seconds'] / backbone['published counts']['seconds']
    (line,) = (line for line in table.splitlines() if line.startswith('| inference, 1x3x64x64, float32'))
    assert f'| {ratio:.2f} |' in line
    assert line.count('not measured') == 2  # memory
    assert '| float32, 64 clusters of 8 tokens, cuDNN' not in table
    assert 'not measured: No viable backend for scaled_dot_product_attention was found |' in table
    assert table.count('| not measured |') >= 3  # detector, optimizer, compiled
    assert (tmp_path / 'gpu_cpu.png').stat().st_size > 1000


@pytest.mark.parametrize('section', ['optimizer', 'detector'])
def test_optimizers_and_detectors_are_measured(monkeypatch, tool, section):
    config = tool.config

    def small(*args):
        cfg = config(*args)
        if cfg.model.backbone.type == 'mmsec.SecViT':
            shrink_model(cfg)
        cfg.model.train_cfg.rcnn.sampler.num = 8
        return cfg

    monkeypatch.setattr(tool, 'config', small)
    cell = dict(section=section, arch='tiny', device='cpu', repeats=1, shape=(64, 64), batch=1, dtype='float32')
    modes = ('inference', 'training') if section == 'detector' else (None,)
    for mode, dtype in [(mode, dtype) for mode in modes for dtype in ('float32', 'bfloat16')[: len(modes)]]:
        rows = tool.measure(cell | {'mode': mode, 'dtype': dtype})
        assert [row['error'] for row in rows.values() if 'error' in row] == []
        names = tool.OPTIMIZERS if section == 'optimizer' else ('published counts', 'clusters of 98', 'Swin-T')
        assert {name for name, row in rows.items() if row['seconds'] > 0} == set(names)


def test_every_cell_compiles_its_own_models(tool):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    class Layer(torch.nn.Module):
        def forward(self, x):
            return x + 1

    for _ in range(10):  # torch would stop after eight
        torch.compile(Layer(), backend=backend, dynamic=False)(torch.zeros(2))
        tool.start_anew('cpu')
    assert len(compiled) == 10


def test_a_side_that_does_not_fit_is_a_row_that_says_so(tool):
    def too_large():
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 90 GiB')

    rows = tool.by_turns({'large': too_large, 'small': lambda: lambda: None}, 'cpu', 2)
    assert rows['large'] == {'error': 'out of memory'}
    assert tool.shown(rows, 'large') == 'not measured: out of memory'
    assert rows['small']['seconds'] >= 0
    assert tool.ratio(rows, 'small', 'large', 'seconds') == 'not measured'


def test_a_process_that_dies_costs_one_cell(tool):
    measurer = tool.Measurer()
    common = dict(arch='tiny', device='cpu', repeats=1, shape=(32, 32), batch=1, dtype='float32', mode='training')
    assert measurer.measure(common | {'section': 'unknown'}) == {'all': {'error': 'the process died, code 1'}}
    assert any('seconds' in row for row in measurer.measure(common | {'section': 'attention'}).values())
    measurer.end()


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    result = run_tool('analysis_tools/benchmark_gpu.py', check=False)
    assert result.returncode == 2
    assert 'no CUDA device here; --device cpu tries the tool on a CPU' in result.stdout
