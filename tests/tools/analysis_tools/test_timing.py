"""How sides take turns. No time is asserted."""

import weakref

import pytest
import torch

from tools.analysis_tools import timing


def prepare(task):
    """What a process of its own is given: a number of bytes, or what goes wrong."""
    if task == 'large':
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 90 GiB')
    if task == 'wrong':
        raise RuntimeError('shapes do not fit')
    return lambda: bytearray(task)


def test_each_side_has_a_process_and_what_does_not_fit_in_memory_is_a_row():
    rows = timing.apart(prepare, {'much': 1 << 26, 'little': 1, 'large': 'large'}, 2)
    assert rows.pop('large') == {'error': 'out of memory'}
    for row in rows.values():
        assert 0 < row['seconds_min'] <= row['seconds_median'] <= row['seconds_max']
    assert rows['much']['peak_bytes'] > 1 << 25 > rows['little']['peak_bytes']


def test_a_side_that_is_wrong_ends_the_run(capfd):
    with pytest.raises(SystemExit):
        timing.apart(prepare, {'right': 1, 'wrong': 'wrong'}, 1)
    assert 'RuntimeError: shapes do not fit' in capfd.readouterr().err


def test_in_a_round_every_side_has_one_turn_after_two_that_warm_up():
    calls = []
    seconds = timing.interleaved({name: lambda name=name: calls.append(name) for name in 'ab'}, 3)
    assert ''.join(calls) == 'aabb' + 'ab' * 3
    assert [len(each) for each in seconds.values()] == [3, 3]
    found = timing.summary([3.0, 1.0, 2.0])
    assert found == {'seconds_median': 2.0, 'seconds_min': 1.0, 'seconds_max': 3.0}


def test_in_one_process_an_error_is_a_row_and_its_memory_is_free_again():
    made = []

    class Large:
        def __init__(self):
            made.append(weakref.ref(self))

        def __call__(self):
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 90 GiB')

    def small():
        assert made[0]() is None
        return lambda: None

    rows = timing.by_turns({'large': Large, 'small': small}, 'cpu', 2)
    assert rows['large'] == {'error': 'out of memory'}
    assert rows['small']['range'][0] <= rows['small']['seconds'] <= rows['small']['range'][1]


def test_every_cell_compiles_its_own_models():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    class Layer(torch.nn.Module):
        def forward(self, x):
            return x + 1

    for _ in range(10):  # torch would stop after eight
        torch.compile(Layer(), backend=backend, dynamic=False)(torch.zeros(2))
        timing.start_anew('cpu')
    assert len(compiled) == 10
