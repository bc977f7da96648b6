"""Samples that are left out are counted, and stop a run where they are too many."""

import types

import pytest
from torch.utils.data import Subset

from mmsec.engine.hooks import broken_data
from mmsec.engine.hooks.broken_data import BrokenDataHook
from mmsec.errors import InputError
from mmsec.registry import TRANSFORMS
from tests.engine import in_two_processes


@pytest.fixture
def load():
    return TRANSFORMS.build(dict(type='mmsec.SkipBroken', transforms=[]))


class Log(list):
    def __getattr__(self, level):
        return self.append


def runner_with(load, num_images=10):
    dataset = types.SimpleNamespace(pipeline=types.SimpleNamespace(transforms=[load]))
    loader = types.SimpleNamespace(dataset=Subset(dataset, range(num_images)), batch_size=5)
    return types.SimpleNamespace(train_dataloader=loader, logger=Log(), iter=0)


def test_a_run_stops_when_too_much_of_an_epoch_is_broken(load):
    runner = runner_with(load)
    hook = BrokenDataHook(max_share=0.2)
    load.count.value = 5  # of an earlier run
    hook.before_train(runner)
    batch = {'data_samples': [None] * 5}
    for _ in range(2):  # two of ten an epoch are put up with, in each epoch
        load.count.value += 2
        hook.after_train_iter(runner, 0, batch)
        hook.after_train_iter(runner, 1, batch)
    assert runner.logger == ['2 of the last 10 samples were broken and left out'] * 2
    load.count.value += 3
    with pytest.raises(InputError, match=r'3 samples were broken.*more than 20\.0% of the 10'):
        hook.after_train_iter(runner, 0, batch)


def test_a_run_that_switches_its_pipeline_goes_on_counting(load):
    runner = runner_with(load)
    hook = BrokenDataHook(max_share=0.2)
    hook.before_train(runner)
    load.count.value += 1
    other = TRANSFORMS.build(dict(type='mmsec.SkipBroken', transforms=[]))
    runner.train_dataloader.dataset.dataset.pipeline = types.SimpleNamespace(transforms=[other])
    other.count.value += 2
    with pytest.raises(InputError, match='3 samples were broken'):
        hook.after_train_iter(runner, 0, {'data_samples': [None] * 5})


def count(rank: int) -> tuple:
    """What a process of two sees of 400 images of which some are broken, in batches of two."""
    load = TRANSFORMS.build(dict(type='mmsec.SkipBroken', transforms=[]))
    runner = runner_with(load, num_images=400)
    runner.train_dataloader.batch_size = 2
    hook = BrokenDataHook(max_share=0.01)
    hook.before_train(runner)
    collectives = []
    all_reduce = broken_data.all_reduce
    broken_data.all_reduce = lambda total: (collectives.append(runner.iter), all_reduce(total))
    for runner.iter in range(100):  # an epoch of each process
        if runner.iter < 3:  # 3 of 400 are put up with, though all are of one process
            load.count.value += rank
        if runner.iter in (61, 62):  # 5 are not
            load.count.value += 1 - rank
        try:
            hook.after_train_iter(runner, 0, {'data_samples': [None] * 2})
        except InputError as error:
            return runner.iter, collectives, str(error)
    raise AssertionError('the run went on')


def test_broken_samples_are_counted_over_all_processes_which_stop_together():
    one, two = in_two_processes(count)
    assert one == two
    iteration, collectives, error = one
    assert iteration == 64  # the first moment after iteration 62 at which the counts are added up
    assert collectives == list(range(4, 65, 5))
    assert error.startswith('5 samples were broken and left out, more than 1.0% of the 400 of an epoch')


def test_a_share_is_a_share():
    with pytest.raises(ValueError, match='max_share must be between 0 and 1, got 3'):
        BrokenDataHook(max_share=3)
