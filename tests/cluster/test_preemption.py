"""Runs that are told to stop, or are not even told."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import types

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import EpochBasedTrainLoop

from mmsec.hooks import PreemptionHook
from mmsec.hooks.preemption import RESUME_ME
from mmsec.resume import newest_whole_checkpoint
from tests.conftest import ROOT


def start(work_dir, max_iters, *options):
    return subprocess.Popen(
        [sys.executable, '-m', 'tests.cluster.toy_run', str(work_dir), str(max_iters), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        start_new_session=True,
    )


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
    whole = iterations(start(tmp_path / 'whole', 60, 'by_epoch', '7').communicate(timeout=120)[0])
    process = start(tmp_path / 'work', 60, 'by_epoch', '7')
    output = read_until(process, 'iteration 27 ')
    # Slurm signals every process of a step, the data loader's workers too.
    (os.killpg if to_group else os.kill)(process.pid, signal.Signals[name])
    output += process.communicate(timeout=60)[0]
    assert process.returncode == RESUME_ME, output
    last = max(iterations(output))
    assert 27 <= last < 60
    assert f'{name}: saved iteration {last}; exit code 75' in output
    resumed = start(tmp_path / 'work', 60, 'by_epoch').communicate(timeout=60)[0]  # the seed comes from the checkpoint
    assert f'resumed {last} optimizer schedule average' in resumed
    assert 'finished 60' in resumed
    assert {**iterations(output), **iterations(resumed)} == whole  # each sample once an epoch, in the same order
    assert min(iterations(resumed)) == last + 1


def test_ten_kills_lose_nothing_that_was_saved(tmp_path):
    moments = random.Random(0)
    reached = 0
    for _ in range(10):
        process = start(tmp_path, 100_000)
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
    whole = iterations(start(tmp_path / 'whole', 40, '7').communicate(timeout=120)[0])
    process = start(tmp_path / 'work', 40, 'nan', '7')
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert 'iteration 27: a loss is not finite, no weight was changed' in output
    assert 'Iteration 26 is saved.' in output
    path, meta = newest_whole_checkpoint(tmp_path / 'work')
    assert (os.path.basename(path), meta['iter']) == ('preempted.pth', 26)
    resumed = start(tmp_path / 'work', 40).communicate(timeout=60)[0]
    assert 'resumed 26 optimizer schedule average' in resumed
    assert {**iterations(output), **iterations(resumed)} == whole
    assert min(iterations(resumed)) == 27


@pytest.mark.parametrize('epochs', [1, 2])
def test_an_evaluation_that_a_signal_ended_is_made_up_for(tmp_path, epochs):
    process = start(tmp_path, 20 * epochs, 'by_epoch', 'val')
    output = read_until(process, 'evaluates')
    process.send_signal(signal.SIGTERM)
    output += process.communicate(timeout=60)[0]
    assert process.returncode == RESUME_ME
    assert 'evaluated' not in output
    resumed = start(tmp_path, 20 * epochs, 'by_epoch', 'val').communicate(timeout=60)[0]
    assert resumed.index('iter: 20') < resumed.index('evaluated 40')
    assert resumed.count('evaluated 40') == epochs
    assert f'finished {20 * epochs}' in resumed
    assert not (tmp_path / 'evaluation_due').exists()


def test_an_epoch_of_another_length_starts_again(tmp_path):
    loader = torch.utils.data.DataLoader(range(10), batch_size=2)
    hub = MessageHub.get_instance('another_length')
    hub.update_info('batches_behind', {'done': 3, 'batches': 7})
    said = []
    runner = types.SimpleNamespace(
        train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop),
        train_dataloader=loader,
        message_hub=hub,
        iter=23,
        epoch=2,
        logger=types.SimpleNamespace(warning=said.append, info=said.append),
    )
    hook = PreemptionHook()
    hook.before_train_epoch(runner)
    assert len(loader) == 5
    assert said == ['epoch 3 starts again: it had 7 iterations, now 5']
    hook.after_train_epoch(runner)
    hub.update_info('batches_behind', {'done': 3, 'batches': 5})
    hook.before_train_epoch(runner)
    assert 'batches_behind' not in hub.runtime_info  # the checkpoint at the end of the epoch must not have it
    assert [batch.tolist() for batch in loader] == [[6, 7], [8, 9]]
    hook.after_train_epoch(runner)
    assert len(list(loader)) == 5


def test_unknown_signals_are_refused():
    with pytest.raises(ValueError, match='SIGTREM'):
        PreemptionHook(signals=['SIGTREM'])
