"""What `make tune-gpu` decides and measures, tried on a CPU with tiny shapes: there is one chance on a GPU."""

import json
import subprocess
import sys
import types
from unittest.mock import Mock

import pytest
import torch
import tune_gpu as tool
from timing import by_turns
from tune_plan import plan

from mmsec.ops.kernels import table
from tests.conftest import ROOT
from tests.ops.gpu.conftest import _quick_interpreter  # noqa: F401

pytest.importorskip('triton', reason='Triton is not installed')
import tune_kernels
import tune_models
import tune_work


@pytest.fixture(autouse=True)
def _tools(monkeypatch, tmp_path):
    """Processes that tools start interpret kernels with one thread."""
    settings = {'TRITON_INTERPRET': '1', 'OMP_NUM_THREADS': '1', 'TRITON_CACHE_DIR': str(tmp_path / 'cache')}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def start(monkeypatch, folder, *options):
    """Run the tool in this process."""
    command = ['tune_gpu.py', '--device', 'cpu', '--tiny', '--out', str(folder), *map(str, options)]
    monkeypatch.setattr(sys, 'argv', command)
    tool.main()


class Fake:
    """Stands for the process that measures: each cell takes ten seconds of a clock that only it moves."""

    seconds = 0.0
    answers: dict = {}
    asked: list = []

    def measure(self, cell, seconds):
        Fake.seconds += 10
        Fake.asked.append(cell['name'])
        return dict(Fake.answers.get(cell['name'], {'took': 10.0}))

    def close(self):
        pass


class Here(Fake):
    """Measures in this process."""

    def measure(self, cell, seconds):
        return tool.measured(cell)


def test_a_dry_run_goes_through_all_and_a_second_one_has_nothing_left(monkeypatch, capfd, tmp_path):
    before = table.PATH.read_bytes() if table.PATH.is_file() else None
    monkeypatch.setattr(tool, 'Measurer', Here)
    start(monkeypatch, tmp_path)
    said = capfd.readouterr().out
    assert [f'part {part} is done' in said for part in (1, 2, 3)] == [True] * 3
    content = json.loads((tmp_path / 'tuning_cpu.json').read_text())
    cells = content['cells']
    assert list(cells) == list(plan('cpu', True))
    assert {name: cell['error'] for name, cell in cells.items() if 'error' in cell} == {}
    for name, cell in cells.items():
        if name.startswith('tiles, '):
            assert cell['wrong'] == [], name
            assert all(error <= 1e-2 for error in cell['plain_error'].values())  # of the same inputs in float64
            assert all('kernel' in row for label, row in cell['against'].items() if 'too long' not in label)
            assert [row for rows in cell['tiles'].values() for row in rows if 'failed' in row] == [], name
        errors = [row['error'] for row in cell.values() if isinstance(row, dict) and isinstance(row.get('error'), str)]
        assert errors == [] or name.endswith('graph'), name  # a CPU has none
    assert cells['set, cast']['distance'] <= 2e-2
    assert 'call' in cells['set, cast']['explained']
    assert len(cells['visits, Swin-T']['first']) == 1
    assert cells['mergings, ViT-B, 1x3x512x512']['PiToMe']['seconds'] > 0
    text = (tmp_path / 'tuning_cpu.md').read_text()
    assert '| depthwise | C16 K3 | {' in text
    assert '## What went wrong or was left out' in text
    assert (tmp_path / 'tuning_cpu.png').stat().st_size > 1000
    assert (table.PATH.read_bytes() if table.PATH.is_file() else None) == before

    entry = json.loads((tmp_path / 'table.json').read_text())['cpu']
    monkeypatch.setattr(table, 'PATH', tmp_path / 'table.json')
    monkeypatch.setattr(table, '_device', lambda: 'cpu')
    table._read.cache_clear()
    try:
        assert table.tile('depthwise', 'C16 K3') == entry['tiles']['depthwise']['C16 K3']
        assert [table.why_not(kernel) for kernel in entry['kernels']] == [None] * len(entry['kernels'])
        assert table.why_not('sort').startswith('not measured')
    finally:
        table._read.cache_clear()

    Fake.asked = []
    monkeypatch.setattr(tool, 'Measurer', Fake)
    start(monkeypatch, tmp_path)
    assert json.loads((tmp_path / 'tuning_cpu.json').read_text()) == content
    assert Fake.asked == []


@pytest.fixture
def fake(monkeypatch):
    """Four cells, in two parts, and a clock."""
    Fake.seconds, Fake.answers, Fake.asked = 0.0, {}, []
    cells = {name: {'part': 2 if name == 'd' else 1, 'run': 'facts', 'name': name} for name in 'abcd'}
    monkeypatch.setattr(tool, 'plan', lambda device, small: cells)
    monkeypatch.setattr(tool, 'Measurer', Fake)
    monkeypatch.setattr(tool, 'time', types.SimpleNamespace(monotonic=lambda: Fake.seconds))
    return Fake


def test_nothing_starts_after_the_deadline_and_the_next_call_goes_on(fake, monkeypatch, capsys, tmp_path):
    start(monkeypatch, tmp_path, '--part', 1, '--minutes', 0.25)  # the second cell ends after 20 seconds
    assert fake.asked == ['a', 'b']
    assert "the time of part 1 is up; the same command goes on with 'c'" in capsys.readouterr().out
    start(monkeypatch, tmp_path, '--minutes', 0.25)
    assert fake.asked == ['a', 'b', 'c', 'd']  # each part has its own time
    start(monkeypatch, tmp_path, '--part', 1, '--again', 'b')
    assert fake.asked[4:] == ['b']


def test_a_cell_that_raises_is_written_and_tried_once_more(fake, monkeypatch, tmp_path):
    fake.answers = {'b': {'error': 'out of memory'}}
    for _ in range(3):
        start(monkeypatch, tmp_path, '--part', 1)
    assert fake.asked == ['a', 'b', 'c', 'b']
    cells = json.loads((tmp_path / 'tuning_cpu.json').read_text())['cells']
    assert cells['b'] == {'error': 'out of memory', 'tries': 2}
    assert '| b | out of memory |' in (tmp_path / 'tuning_cpu.md').read_text()


def test_figures_of_other_software_are_not_gone_on_with(fake, monkeypatch, tmp_path):
    start(monkeypatch, tmp_path, '--part', 1)
    monkeypatch.setattr(torch, '__version__', '1.0')
    start(monkeypatch, tmp_path, '--part', 1)
    assert fake.asked == ['a', 'b', 'c'] * 2


def test_a_process_that_dies_or_hangs_costs_one_cell(tmp_path):
    measurer = tool.Measurer()
    common = {'device': 'cpu', 'dtype': 'float16', 'rounds': 1, 'run': 'facts'}
    try:
        assert measurer.measure(common | {'sizes': [8, 4, 'x']}, 100)['error'].startswith('TypeError: ')
        first = measurer.process
        assert 'launch_us' in measurer.measure(common | {'sizes': [8, 4, 1]}, 100)
        assert measurer.process is first
        assert measurer.measure({'device': 'cpu'}, 100) == {'error': 'the process died, code 1'}
        assert not first.is_alive()
        measurer.process = Mock(is_alive=lambda: True, exitcode=1)  # as long as it has not been seen
        assert measurer.measure(common, 100) == {'error': 'the process died, code 1'}
        measurer.pipe = Mock(poll=lambda seconds: False)
        assert measurer.measure(common, 7) == {'error': 'no answer in 7 seconds', 'took': 7}
        measurer.process.kill.assert_called_once()
    finally:
        measurer.close()


def test_a_process_that_lost_the_device_is_replaced(monkeypatch):
    def release(device):
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    monkeypatch.setattr(tool, 'release', release)
    cell = {'device': 'cpu', 'dtype': 'float16', 'rounds': 1, 'run': 'facts', 'sizes': [8, 4, 1]}
    pipe = Mock(recv=Mock(side_effect=[cell, EOFError('not reached')]))
    tool.work(pipe)
    (answer,) = pipe.send.call_args.args
    assert answer['lost'].startswith('CUDA error')

    measurer = tool.Measurer()
    measurer.process, measurer.pipe = Mock(is_alive=lambda: True), Mock(recv=lambda: answer)
    assert 'launch_us' in measurer.measure(cell, 1)
    measurer.process.kill.assert_called_once()


def test_a_tile_that_does_not_run_is_left_out(monkeypatch):
    cell = plan('cpu', True)['tiles, norm C64'] | {'ahead': True}

    def fails(*args):
        raise ValueError('out of resource')

    monkeypatch.setattr(tune_work.norm, 'backward', fails)
    result = tune_kernels.tiles(cell)
    assert result['checked']['backward'] == {'failed': 'ValueError: out of resource'}
    assert [each.split(':')[0] for each in result['wrong']] == ['backward']


def test_what_a_side_raises_is_a_row():
    def wrong():
        raise TypeError('unknown option')

    rows = by_turns({'wrong': tune_models.under({}, wrong), 'late': tune_models.under({}, lambda: wrong)}, 'cpu', 1)
    assert rows == {name: {'error': 'TypeError: unknown option'} for name in ('wrong', 'late')}


def test_swin_needs_no_compiled_operators():
    code = (
        "import sys; sys.modules['mmcv._ext'] = None\n"
        'import torch; from swin import swin_transformer\n'
        'swin = swin_transformer()(embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))\n'
        'maps = swin(torch.zeros(1, 3, 32, 32))\n'
        "print(len(maps), 'mmdet.models.detectors' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT / 'tools/analysis_tools', capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ['4', 'False']


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ([], 'no CUDA device here'),
        (['--device', 'cpu'], 'a CPU needs --tiny'),
        (['--device', 'cpu', '--tiny'], '--tiny needs --out'),
    ],
)
def test_what_cannot_be_measured_is_refused(monkeypatch, capsys, options, said):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(sys, 'argv', ['tune_gpu.py', *options])
    with pytest.raises(SystemExit, match='2'):
        tool.main()
    assert said in capsys.readouterr().err
