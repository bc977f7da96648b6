"""The rules by which `make tune-gpu` decides, the table that it writes, and its report."""

import sys

import pytest
import tune_gpu
import tune_plan
import tune_report
import tune_rules as rules

from mmsec.ops.kernels import table

LABELS = ('stage 1, 2x8x8', 'stage 2, 2x4x4', 'stage 3, 2x2x2', 'stage 4, 2x1x1')


def tile(size, registers=64, error=1e-3, equal=True, **seconds):
    """Figures of a tile."""
    return {'tile': {'T': size}, 'registers': registers, 'error': error, 'equal': equal, 'seconds': seconds}


WRONG = [
    {'tile': {'T': 1}, 'failed': 'out of shared memory'},
    tile(2, error=3e-3, a=0.1),
    tile(4, equal=False, a=0.1),
]


@pytest.mark.parametrize(
    ('rows', 'wanted'),
    [
        ([tile(4, a=1.0, b=5.0), tile(8, a=2.0, b=2.0)], 8),  # the geometric mean, not one map
        ([tile(4, a=1.0, b=100.0), tile(8, a=20.0, b=20.0)], 4),  # nor the arithmetic mean
        ([tile(1, 80, a=1.0), tile(2, 64, a=1.005), tile(4, 64, a=1.0), tile(8, 32, a=1.02)], 2),  # fewer registers
        ([*WRONG, tile(8, error=2e-3, a=1.0), tile(16)], 8),
        (WRONG, None),
        ([tile(1, error=0.06, a=1.0)], None),  # more than any rounding
    ],
)
def test_the_fastest_tile_that_is_right_wins(rows, wanted):
    assert rules.fastest(rows, 1.0 if len(rows) == 1 else 1e-3) == (wanted and {'T': wanted})


def cell(kernel, *speeds, **more):
    """Figures of a kernel by itself that is so many times as fast as plain torch at the stages."""
    against = {
        f'{label}, {of}': {'plain': 2.0 * speed, 'kernel': 2.0}
        for label, speed in zip(LABELS, speeds, strict=False)
        for of in ('forward', 'backward')
    }
    return {'kernel': kernel, 'against': against, 'took': 1.0, **more}


def test_a_kernel_stays_that_is_fast_enough_at_three_of_four_stages():
    assert rules.stage_speeds([cell('sort', 1.15, 2.0)]) == pytest.approx({'stage 1': 1.15, 'stage 2': 2.0})
    assert rules.stays(rules.stage_speeds([cell('sort', 1.16, 1.16, 1.16, 0.5)]))
    assert not rules.stays(rules.stage_speeds([cell('sort', 9.0, 9.0, 1.14, 1.14)]))
    assert rules.stays({'stage 3': 1.2, 'stage 4': 1.2})  # where it serves two
    assert not rules.stays({'stage 3': 1.2, 'stage 4': 1.1})
    assert not rules.stays({})
    more = {'kernel': 'depthwise', 'against': {f'{LABELS[0]}, forward': {'plain': 8.0, 'kernel': 2.0}}}
    assert rules.stage_speeds([cell('depthwise', 1.0), more]) == pytest.approx({'stage 1': 12 / 6})
    assert rules.stage_speeds([{'against': {LABELS[0]: {'plain': 1.0}}}]) == {}


def joined(inference, training, distance=1e-2, **more):
    """Figures of a set in which the passes take so many times as long with the kernel."""
    modes = {'inference': inference, 'training': training}
    rows = {mode: {'without': {'seconds': 2.0}, 'with': {'seconds': 2.0 * value}} for mode, value in modes.items()}
    return rows | {'distance': distance, 'plain_distance': 5e-3, 'failed': [], 'took': 1.0} | more


@pytest.mark.parametrize(
    ('row', 'joins'),
    [
        (joined(0.96, 1.0), True),
        (joined(1.0, 0.9), True),
        (joined(1.009, 0.9), True),
        (joined(1.011, 0.9), False),
        (joined(0.98, 0.98), False),
        (joined(0.9, 0.9, 2.1e-2), False),
        (joined(0.9, 0.9, 2.1e-2, plain_distance=3e-2), True),  # of rounding alone
        (joined(0.9, 0.9, failed=['the kernel failed']), False),
        (joined(0.9, 0.9) | {'training': {'without': {'seconds': 1.0}, 'with': {'error': 'out of memory'}}}, False),
        ({'error': 'the process died'}, False),
    ],
)
def test_a_kernel_joins_the_set_where_one_pass_falls_and_none_rises(row, joins):
    assert rules.joins(row) == joins


def test_the_set_grows_in_order():
    assert rules.ORDER == ('cast', 'depthwise', 'attention', 'residual_norm', 'sort', 'scores')
    results = {
        'depthwise': cell('depthwise', 2.0, 2.0, 2.0, 2.0, chosen={'depthwise': {'C64 K3': {'T': 8}}}),
        'attention': cell('attention', 1.0, 1.0, 1.0, 1.0),
        'norm': cell('residual_norm', 2.0, wrong=['backward: two runs differ']),
        'sort': cell('sort', 2.0),
    }
    adding = {'run': 'kernel_set', 'added': 'depthwise'}
    results['set, cast'] = joined(0.9, 0.9)
    given = tune_gpu.given(adding, results)
    assert given['kernels'] == ['cast']
    assert given['tiles'] == {'depthwise': {'C64 K3': {'T': 8}}}
    results['set, depthwise'] = {'error': 'out of memory', 'tries': 1}
    assert tune_gpu.given(adding, results)['kernels'] == ['cast']  # tried again
    assert 'too slow by itself (1.00' in tune_gpu.given({'run': 'kernel_set', 'added': 'attention'}, results)
    assert 'two runs differ' in tune_gpu.given({'run': 'kernel_set', 'added': 'residual_norm'}, results)
    results['set, depthwise'] = joined(0.9, 0.9)
    results['set, sort'] = joined(1.0, 1.0)
    assert rules.kernel_set(results) == (
        ['cast', 'depthwise'],
        {
            'cast': 'joins',
            'depthwise': 'joins',
            'attention': 'left out: too slow by itself (1.00, 1.00, 1.00, 1.00 times what it replaces)',
            'residual_norm': 'left out: backward: two runs differ',
            'sort': 'left out: brings too little end to end, or maps differ',
            'scores': 'not measured',
        },
    )
    results['set, cast'] = {'error': 'the process died'}
    assert rules.kernel_set(results)[1]['cast'] == 'left out: the process died'
    final = tune_gpu.given({'run': 'rivals'}, results)['table']
    assert final == {'kernels': ['depthwise'], 'tiles': {'depthwise': {'C64 K3': {'T': 8}}}}


def test_the_table_keeps_what_was_measured_on_other_devices(monkeypatch, tmp_path):
    path = tmp_path / 'table.json'
    rules.write_table(path, 'sm_80', {'device': 'A100', 'kernels': ['sort'], 'tiles': {}})
    for kernels in ([], ['depthwise']):
        tiles = {'depthwise': {'C64 K3': {'T': 8, 'warps': 4}}}
        rules.write_table(path, 'sm_90', {'device': 'H200', 'torch': '2.11', 'kernels': kernels, 'tiles': tiles})
    monkeypatch.setattr(table, 'PATH', path)
    for device, kernel, other in (('sm_90', 'depthwise', 'sort'), ('sm_80', 'sort', 'depthwise')):
        monkeypatch.setattr(table, '_device', lambda device=device: device)
        table._read.cache_clear()
        assert table.why_not(kernel) is None
        assert table.why_not(other) == f'not measured to be faster on {device}; MMSEC_KERNELS=on turns all kernels on'
        assert table.tile('depthwise', 'C64 K3') == ({'T': 8, 'warps': 4} if device == 'sm_90' else None)
        with table.use_table({'kernels': [other], 'tiles': {'sort': {'N': {'warps': 2}}}}):
            assert table.why_not(other) is None
            assert table.why_not(kernel) is not None
            assert table.tile('sort', 'N') == {'warps': 2}
    table._read.cache_clear()
    assert [each.name for each in tmp_path.iterdir()] == ['table.json']


def test_the_report_says_which_aims_are_reached(monkeypatch, tmp_path):
    rows = {
        'clusters of 98': {'seconds': 1.0, 'peak_bytes': 2 << 20},
        'Swin-T': {'seconds': 1.2, 'peak_bytes': 1 << 20},
        'published counts': {'seconds': 1.0},
        'published code': {'seconds': 4.0},
    }
    names = [
        tune_plan.rival_name('small', *each) for each in (('inference', 8, (800, 1344)), ('training', 8, (512, 512)))
    ]
    cells = {name: rows | {'took': 1.0} for name in names}
    cells['visits, clusters of 98'] = {'first': [0.1, 0.4], 'second': [0.1, 0.1], 'first_median': 0.25}
    answers = {what: reached for what, bound, _, reached in tune_report.aims(cells) if bound != 'at least 1.5'}
    assert list(answers.values()) == [True, False, None, None, None, None, True, False]
    content = {'machine': {'device': 'NVIDIA H200', 'torch': '2.11'}, 'cells': cells}
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    said = tune_report.write(content, tmp_path / 'tuning_nvidia_h200.json')
    assert 'plot: none, for want of matplotlib' in said
    text = (tmp_path / 'tuning_nvidia_h200.md').read_text()
    assert '8x3x800x1344: times as fast as Swin-T | at least 1.5 | 1.2 | not reached |' in text
    assert 'the published code | at least 3 | 4 | reached |' in text
    assert '| depthwise | not measured |' in text
    assert '## Kernels by themselves, ms\n\nNot measured.' in text
    with pytest.raises(ModuleNotFoundError):
        tune_report.draw(content, tmp_path / 'none.png')
