"""Runs that are told to stop, or are not even told."""

import multiprocessing
import os
import random
import re
import resource
import signal
import time
import types

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop

from mmsec.cli.resume import newest_whole_checkpoint
from mmsec.engine.hooks.atomic_checkpoint import AtomicCheckpointHook
from mmsec.engine.hooks.preemption import RESUME_ME, SAVE_FAILED, PreemptionHook
from mmsec.models.checkpoints.reading import read_checkpoint
from tests.engine import ends, start_two, toy_run


def two(*arguments, **environment):
    """Two processes of one toy run."""
    return start_two(*[['-m', 'tests.engine.toy_run', *arguments]] * 2, **environment)


def whole_run(*arguments):
    """The output of a run that nothing interrupts."""
    return ends([toy_run(*arguments)])[0]


def read_until(process, pattern):
    """The output up to the first line that matches."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            break
    return ''.join(lines)


def iterations(output):
    """Iteration -> samples."""
    return {int(n): samples for n, samples in re.findall(r'^iteration (\d+) samples ([\d ]+)$', output, re.M)}


@pytest.mark.parametrize(('name', 'to_group'), [('SIGTERM', True), ('SIGUSR1', False)])
def test_a_signal_saves_exits_with_75_and_the_epoch_goes_on_where_it_was(tmp_path, name, to_group):
    whole = iterations(whole_run(tmp_path / 'whole', 60, 'by_epoch', '7'))
    process = toy_run(tmp_path / 'work', 60, 'by_epoch', '7')
    output = read_until(process, 'iteration 27 ')
    # Slurm signals every process of a step, the data loader's workers too.
    (os.killpg if to_group else os.kill)(process.pid, signal.Signals[name])
    output += process.communicate(timeout=60)[0]
    assert process.returncode == RESUME_ME, output
    last = max(iterations(output))
    assert 27 <= last < 60
    assert f'{name}: saved iteration {last}; exit code 75' in output
    resumed = whole_run(tmp_path / 'work', 60, 'by_epoch')  # the seed comes from the checkpoint
    assert f'resumed {last} optimizer schedule average' in resumed
    assert 'finished 60' in resumed
    assert {**iterations(output), **iterations(resumed)} == whole  # each sample once an epoch, in the same order
    assert min(iterations(resumed)) == last + 1


def test_a_process_that_is_killed_on_its_way_out_does_not_hide_that_the_run_was_saved(tmp_path):
    (tmp_path / 'resume_me').write_text('of an earlier run')
    processes = two(tmp_path, 100_000, 'interval=100000', 'dies_at_exit', SLURM_JOB_ID='41')
    early = read_until(processes[0], 'iteration 5 ')
    assert not (tmp_path / 'resume_me').exists()
    processes[1].send_signal(signal.SIGTERM)
    output = early + ends(processes)[0]
    assert [process.returncode for process in processes] == [RESUME_ME, -signal.SIGKILL], output
    assert 'a signal to another process: saved iteration' in output
    assert (tmp_path / 'resume_me').read_text() == '41'


def test_a_save_that_fails_has_its_own_exit_code_on_all_processes(tmp_path):
    processes = two(tmp_path, 100_000, 'interval=100000')
    early = read_until(processes[0], 'iteration 5 ')
    (tmp_path / 'rolling.pth').mkdir()
    processes[0].send_signal(signal.SIGTERM)
    output = early + ends(processes)[0]
    assert [process.returncode for process in processes] == [SAVE_FAILED, SAVE_FAILED], output
    assert 'SIGTERM: the last save failed; exit code 74' in output
    assert not (tmp_path / 'resume_me').exists()


def test_a_signal_before_training_begins_asks_to_be_resumed(tmp_path):
    process = toy_run(tmp_path, 100, 'waits', SLURM_JOB_ID='41')
    read_until(process, 'waits')
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=60)[0]  # which ends its stdin
    assert process.returncode == RESUME_ME, output
    assert not iterations(output)
    assert (tmp_path / 'resume_me').read_text() == '41'


@pytest.mark.parametrize('room_again', [False, True])
def test_a_run_whose_last_state_is_not_on_the_disk_ends_with_74(tmp_path, room_again):
    process = toy_run(tmp_path, 40, 'interval=10')
    output = read_until(process, 'iteration 15 ')
    unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**20, unlimited[1]))
    output += read_until(process, r"iter_(20|40)\.pth' was not saved")
    if room_again:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
    output += process.communicate(timeout=60)[0]
    assert process.returncode == (0 if room_again else SAVE_FAILED), output
    assert ('the last state of the run is not on the disk' in output) == (not room_again)
    assert newest_whole_checkpoint(tmp_path)[1]['iter'] == (40 if room_again else 10)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_run_that_saves_by_time_loses_little_when_it_is_killed(tmp_path, by_epoch):
    options = [*(['by_epoch'] if by_epoch else []), 'interval=100000', 'save_minutes=0.001']
    whole = iterations(whole_run(tmp_path / 'whole', 60, *options, '7'))
    process = toy_run(tmp_path / 'work', 60, *options, '7')
    output = read_until(process, 'iteration 33 ')
    os.killpg(process.pid, signal.SIGKILL)
    output += process.communicate()[0]
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['rolling.pth']
    saved = newest_whole_checkpoint(tmp_path / 'work')[1]['iter']
    assert 20 < saved <= max(iterations(output))
    resumed = whole_run(tmp_path / 'work', 60, *options)
    assert f'resumed {saved} optimizer schedule average' in resumed
    assert {n: samples for n, samples in whole.items() if n > saved} == iterations(resumed)


@pytest.mark.parametrize('by_epoch', [['by_epoch'], []])
def test_samples_draw_by_their_place_whoever_loads_them_and_from_whatever_iteration(tmp_path, by_epoch):
    whole = iterations(whole_run(tmp_path / 'whole', 60, *by_epoch, 'workers=0', '7'))
    first = iterations(whole_run(tmp_path / 'work', 60, *by_epoch, 'workers=2', 'stops_at=33', '7'))
    resumed = iterations(whole_run(tmp_path / 'work', 60, *by_epoch, 'workers=1'))
    assert {**first, **resumed} == whole
    assert (max(first), min(resumed)) == (33, 34)
    augmentations = [number for samples in whole.values() for number in samples.split()[2:]]
    assert len({*augmentations}) == len(augmentations) == 120  # two samples an iteration


def test_the_checkpoint_of_a_complete_epoch_does_not_hold_the_middle_of_one(tmp_path):
    output = whole_run(tmp_path, 20, 'by_epoch', 'save_minutes=0.001')
    assert re.search(r'saved iteration \d+, 0.001 minutes after the last checkpoint', output)
    assert 'batches_behind' in read_checkpoint(tmp_path / 'rolling.pth')['meta']
    assert 'batches_behind' not in read_checkpoint(tmp_path / 'epoch_1.pth')['meta']


def test_processes_evaluate_unequal_numbers_of_samples(tmp_path):
    processes = two(tmp_path, 40, 'val', 'val_samples=41', 'interval=100')
    outputs = ends(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0].count('evaluates') == outputs[1].count('evaluates') + 1
    processes = two(tmp_path / 'told', 41, 'val', 'val_samples=41', 'interval=100')
    read_until(processes[1], 'evaluates')
    processes[1].send_signal(signal.SIGTERM)
    outputs = ends(processes)
    assert [process.returncode for process in processes] == [RESUME_ME, RESUME_ME], outputs
    assert 'evaluation left' in outputs[0]
    assert (tmp_path / 'told/evaluation_due').read_text() == '40'


def test_a_process_that_starts_from_another_state_stops_the_run_with_one_error(tmp_path):
    assert toy_run(tmp_path / 'older', 20).wait(60) == 0
    assert toy_run(tmp_path / 'work', 20).wait(60) == 0
    older = tmp_path / 'older/iter_20.pth'  # the same iteration, other weights and seed
    for option, difference in {
        f'stale={older}': r'seed is \d+, of the first \d+, hash of weights is (\w{16}), of the first (?!\1)\w{16}\)',
        'fewer': r'number of training samples is 20, of the first 40\)',
    }.items():
        processes = two(tmp_path / 'work', 100, option)
        outputs = ends(processes)
        assert [process.returncode for process in processes] == [1, 1], outputs
        assert not any(map(iterations, outputs))
        assert ''.join(outputs).count('error: ') == 1
        said = rf'error: 1 of 2 processes do not start as the first does \(process 1: {difference}'
        assert re.search(said, outputs[0]), outputs


def test_ten_kills_lose_nothing_that_was_saved(tmp_path):
    moments = random.Random(0)
    reached = 0
    for _ in range(10):
        process = toy_run(tmp_path, 100_000)
        output = read_until(process, f'iteration {reached + moments.randint(2, 8)} ')
        time.sleep(moments.random() * 0.06)
        os.killpg(process.pid, signal.SIGKILL)
        output += process.communicate()[0]
        if reached:
            resumed = re.search(r'resumed (\d+) optimizer schedule average', output)
            assert resumed, output
            assert int(resumed[1]) == reached
        saved = newest_whole_checkpoint(tmp_path)[1]['iter']
        # Of the iteration that was reported last, the checkpoint was being written.
        assert saved >= max(iterations(output)) - 1, output
        assert saved > reached
        reached = saved


def test_a_bad_loss_saves_before_it_stops_and_the_run_goes_on(tmp_path):
    whole = iterations(whole_run(tmp_path / 'whole', 40, '7'))
    process = toy_run(tmp_path / 'work', 40, 'nan', 'interval=30', '7')
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert 'iteration 27: a loss is not finite, no weight was changed' in output
    assert 'Iteration 26 is saved.' in output
    path, meta = newest_whole_checkpoint(tmp_path / 'work')
    assert (os.path.basename(path), meta['iter']) == ('rolling.pth', 26)
    resumed = whole_run(tmp_path / 'work', 40)
    assert 'resumed 26 optimizer schedule average' in resumed
    assert {**iterations(output), **iterations(resumed)} == whole
    assert min(iterations(resumed)) == 27


@pytest.mark.parametrize('epochs', [1, 2])
def test_an_evaluation_that_a_signal_ended_is_made_up_for(tmp_path, epochs):
    process = toy_run(tmp_path, 20 * epochs, 'by_epoch', 'val')
    output = read_until(process, 'evaluates')
    process.send_signal(signal.SIGTERM)
    output += process.communicate(timeout=60)[0]
    assert process.returncode == RESUME_ME
    assert 'evaluated' not in output
    again = toy_run(tmp_path, 20 * epochs, 'by_epoch', 'val')
    output = read_until(again, 'evaluates')
    again.send_signal(signal.SIGUSR1)
    output += again.communicate(timeout=60)[0]
    assert again.returncode == RESUME_ME, output
    assert 'evaluated' not in output
    assert not iterations(output)
    resumed = whole_run(tmp_path, 20 * epochs, 'by_epoch', 'val')
    assert resumed.index('iter: 20') < resumed.index('evaluated 40')
    assert resumed.count('evaluated 40') == epochs
    assert f'finished {20 * epochs}' in resumed
    assert not (tmp_path / 'evaluation_due').exists()


@pytest.mark.parametrize(('iters', 'evaluations'), [(40, 1), (60, 2)])
def test_a_signal_right_before_an_evaluation_does_not_skip_it(tmp_path, iters, evaluations):
    process = toy_run(tmp_path, iters, 'val', 'stops_at=40')
    output = process.communicate(timeout=60)[0]
    assert process.returncode == RESUME_ME, output
    assert 'evaluates' not in output
    resumed = whole_run(tmp_path, iters, 'val')
    assert resumed.count('evaluated 40') == evaluations  # samples
    if iters > 40:
        assert resumed.index('evaluated 40') < resumed.index('iteration 41 ')
    assert f'finished {iters}' in resumed


def test_an_epoch_of_another_length_starts_again(tmp_path):
    loader = torch.utils.data.DataLoader(range(10), batch_size=2)
    said = []
    runner = types.SimpleNamespace(
        train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop),
        train_dataloader=loader,
        iter=23,
        epoch=2,
        logger=types.SimpleNamespace(warning=said.append, info=said.append),
        _resume=True,
    )
    hook = PreemptionHook()
    hook.after_load_checkpoint(runner, {'meta': {'batches_behind': {'done': 3, 'batches': 7}}})
    hook.before_train_epoch(runner)
    assert len(loader) == 5
    assert said == ['epoch 3 starts again: it had 7 iterations, now 5']
    hook.after_train_epoch(runner)
    hook.after_load_checkpoint(runner, {'meta': {'batches_behind': {'done': 3, 'batches': 5}}})
    hook.before_train_epoch(runner)
    assert [batch.tolist() for batch in loader] == [[6, 7], [8, 9]]
    hook.after_train_epoch(runner)
    hook.before_train_epoch(runner)
    assert len(list(loader)) == 5


def test_a_fork_of_a_run_ends_when_it_is_terminated(tmp_path):
    hook, runner = PreemptionHook(), types.SimpleNamespace(hooks=[AtomicCheckpointHook()], val_loop=None)
    runner.work_dir = tmp_path
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    codes = []
    for wait in [0] * 20 + [0.1]:
        child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(wait)  # seconds: none, and Python has not finished forking when the signal comes
        child.terminate()
        child.join(10)
        codes.append(child.exitcode)
        child.kill()
    os.kill(os.getpid(), signal.SIGTERM)
    hook.after_train(runner)
    assert codes == [-signal.SIGTERM] * len(codes)
    assert hook.received == signal.SIGTERM  # the run itself goes on, and saves


@pytest.mark.parametrize(
    ('options', 'message'),
    [({'signals': ['SIGTREM']}, 'SIGTREM'), ({'save_minutes': 0}, 'save_minutes must be positive')],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PreemptionHook(**options)
