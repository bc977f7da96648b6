"""Runs that are told to stop, or are not even told."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

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
    whole = iterations(start(tmp_path / 'whole', 60, 'by_epoch').communicate(timeout=120)[0])
    process = start(tmp_path / 'work', 60, 'by_epoch')
    output = read_until(process, 'iteration 27 ')
    # Slurm signals every process of a step, the data loader's workers too.
    (os.killpg if to_group else os.kill)(process.pid, signal.Signals[name])
    output += process.communicate(timeout=60)[0]
    assert process.returncode == RESUME_ME, output
    last = max(iterations(output))
    assert 27 <= last < 60
    assert f'{name}: saved iteration {last}; exit code 75' in output
    resumed = start(tmp_path / 'work', 60, 'by_epoch').communicate(timeout=60)[0]
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


def test_unknown_signals_are_refused():
    with pytest.raises(ValueError, match='SIGTREM'):
        PreemptionHook(signals=['SIGTREM'])
