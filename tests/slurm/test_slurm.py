"""The launchers on a real Slurm; `make test-slurm` runs this."""

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, small_run

HOSTS = {'mmdet': 'mmdet/secvit_t_maskrcnn_shapes.py', 'mmseg': 'mmseg/secvit_t_upernet_shapes.py'}
CLUSTER = Path(__file__).with_name('cluster.sh')


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
    """The environment of a user on the cluster."""
    folder = tmp_path_factory.mktemp('slurm')
    started = subprocess.run([CLUSTER, 'start', folder], capture_output=True, text=True)
    if started.returncode:
        pytest.fail(started.stderr)
    yield {
        **os.environ,
        'SLURM_CONF': started.stdout.strip(),
        'PYTHON': sys.executable,
        'GPUS': '2',
        'GPUS_PER_NODE': '0',
        'CPUS_PER_TASK': '1',
        'OMP_NUM_THREADS': '1',
    }
    subprocess.run([CLUSTER, 'stop', folder], check=True)


def submit(slurm, config, work_dir, *options, **environment):
    """Submit training; the job's id."""
    command = [ROOT / 'tools/slurm_train.sh', 'test', 'train', config, work_dir, *options]
    result = subprocess.run(command, env=slurm | environment, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return re.search(r'submitted job (\d+); tail -F .*slurm-\d+\.log', result.stdout)[1]


def state(slurm, job):
    """Slurm's word for where a job is."""
    shown = subprocess.run(['scontrol', 'show', 'job', job], env=slurm, capture_output=True, text=True).stdout
    return re.search(r'JobState=(\w+)', shown)[1]


def wait(slurm, job, log, seconds=240):
    """Wait for a job's end; its state and its log."""
    deadline = time.monotonic() + seconds
    while (now := state(slurm, job)) in ('PENDING', 'RUNNING', 'COMPLETING', 'CONFIGURING', 'REQUEUED'):
        assert time.monotonic() < deadline, f'{now}\n{log.read_text() if log.exists() else "no log"}'
        time.sleep(0.5)
    return now, log.read_text()


def wait_for(log, pattern, seconds=120):
    """Wait for a line in a log."""
    deadline = time.monotonic() + seconds
    while not (log.exists() and re.search(pattern, log.read_text())):
        assert time.monotonic() < deadline, log.read_text() if log.exists() else 'no log'
        time.sleep(0.2)


def test_two_jobs_of_two_tasks_train_side_by_side_and_test_as_one_process_does(slurm, shapes, tmp_path):
    jobs = {}
    for host, name in HOSTS.items():
        work_dir = tmp_path / host
        config = small_run(name, shapes, work_dir)
        jobs[host] = submit(slurm, config, work_dir), config, work_dir
    logs = {}
    for host, (job, _, work_dir) in jobs.items():
        done, logs[host] = wait(slurm, job, work_dir / f'slurm-{job}.log')
        assert done == 'COMPLETED', logs[host]
        assert re.search(r'batch size\s+8 = 4 an iteration and process x 2 processes', logs[host])
    ran = [
        [time.mktime(time.strptime(t, '%m/%d %H:%M:%S')) for t in re.findall(r'^(\d\d/\d\d \S+) - ', log, re.M)]
        for log in logs.values()
    ]
    assert max(times[0] for times in ran) < min(times[-1] for times in ran), 'they did not run at the same time'
    for host, (_, config, work_dir) in jobs.items():
        checkpoint = (work_dir / 'last_checkpoint').read_text()
        arguments = [config, checkpoint, '--work-dir', work_dir / 'test', '--out']
        for command, out in (
            ([ROOT / 'tools/slurm_test.sh', 'test', 'test'], 'two.json'),
            ([sys.executable, ROOT / 'tools/test.py'], 'one.json'),
        ):
            result = subprocess.run(
                [*command, *arguments, work_dir / out], env=slurm, cwd=ROOT, capture_output=True, text=True, timeout=240
            )
            assert result.returncode == 0, result.stdout + result.stderr
        two, one = (json.loads((work_dir / f'{n}.json').read_text()) for n in ('two', 'one'))
        assert one == pytest.approx(two), host


def run_with_hook(shapes, folder, hook, **changes):
    """A long run of the segmenter with a hook of the test, ``hook`` being its methods; config and environment."""
    config = small_run(
        HOSTS['mmseg'], shapes, folder, **{'train_cfg.max_iters': 100000, 'train_cfg.val_interval': 10**6} | changes
    )
    (folder / 'of_the_test.py').write_text(
        'import atexit, os, signal, time\n'
        'from mmengine.hooks import Hook\n'
        'from mmengine.registry import HOOKS\n'
        '@HOOKS.register_module()\n'
        'class OfTheTest(Hook):\n' + textwrap.indent(textwrap.dedent(hook), '    ')
    )
    text = config.read_text().replace("'mmsec.datasets',", "'mmsec.datasets', 'of_the_test',")
    config.write_text(text + "\ncustom_hooks.append(dict(type='OfTheTest'))\n")
    return config, {'PYTHONPATH': os.pathsep.join(filter(None, [str(folder), os.environ.get('PYTHONPATH')]))}


def test_a_failing_rank_ends_the_job_within_a_minute_and_its_error_is_shown(slurm, shapes, tmp_path):
    hook = """
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.rank == 1 and runner.iter == 3:
                raise RuntimeError('the second rank fails')
    """
    config, environment = run_with_hook(shapes, tmp_path, hook)
    job = submit(slurm, config, tmp_path, **environment)
    log = tmp_path / f'slurm-{job}.log'
    wait_for(log, r'Iter\(train\) \[ +3/')
    failed = time.monotonic()
    done, text = wait(slurm, job, log, seconds=60)
    assert time.monotonic() - failed < 60
    assert done == 'FAILED'
    assert 'the second rank fails' in text
    assert 'asking Slurm' not in text
    assert 'not queued again' in text


def test_a_rank_that_is_killed_at_exit_after_the_save_does_not_lose_the_job(slurm, shapes, tmp_path):
    hook = """
        def before_train(self, runner):
            if runner.rank == 1 and runner.iter == 0:
                atexit.register(os.kill, os.getpid(), signal.SIGKILL)
    """
    config, environment = run_with_hook(shapes, tmp_path, hook, **{'default_hooks.checkpoint.interval': 10**6})
    job = submit(slurm, config, tmp_path, **environment)
    log = tmp_path / f'slurm-{job}.log'
    wait_for(log, r'Iter\(train\) \[ +3/')
    subprocess.run(['scancel', '--signal=USR1', job], env=slurm, check=True)
    wait_for(log, r'stopped and saved \(exit code 137\); asking Slurm')
    saved = int(re.search(r'saved iteration (\d+)', log.read_text())[1])
    wait_for(log, rf'started again by Slurm(.|\n)*iter: {saved}\b(.|\n)*Iter\(train\)')
    subprocess.run(['scancel', job], env=slurm, check=True)
    assert wait(slurm, job, log)[0] == 'CANCELLED'


def test_a_rank_with_another_checkpoint_stops_the_run(slurm, shapes, tmp_path):
    hook = """
        def before_run(self, runner):
            if runner.rank == 1 and runner._resume:
                runner._load_from = runner._load_from.replace('iter_4', 'iter_2')
    """
    changes = {'train_cfg.max_iters': 4, 'default_hooks.checkpoint.max_keep_ckpts': 2}
    config, environment = run_with_hook(shapes, tmp_path, hook, **changes)
    job = submit(slurm, config, tmp_path, **environment)
    done, text = wait(slurm, job, tmp_path / f'slurm-{job}.log')
    assert done == 'COMPLETED', text
    job = submit(slurm, config, tmp_path, '--resume', '--cfg-options', 'train_cfg.max_iters=8', **environment)
    done, text = wait(slurm, job, tmp_path / f'slurm-{job}.log')
    assert done == 'FAILED', text
    assert len(re.findall('^error: ', text, re.M)) == 1
    assert re.search(
        r'error: 1 of 2 processes .*\(process 1: iteration is 2, of the first 4, hash of weights is ', text
    )
    assert 'Iter(train)' not in text
    assert 'asking Slurm' not in text


def test_a_job_that_is_preempted_before_it_trains_is_queued_again(slurm, shapes, tmp_path):
    hook = """
        def before_run(self, runner):
            print('waits', flush=True)
            time.sleep(10)
    """
    config, environment = run_with_hook(shapes, tmp_path, hook)
    job = submit(slurm, config, tmp_path, **environment)
    log = tmp_path / f'slurm-{job}.log'
    wait_for(log, 'waits(.|\\n)*waits')
    subprocess.run(['scancel', '--signal=USR1', job], env=slurm, check=True)
    wait_for(log, r'training had not begun; exit code 75(.|\n)*asking Slurm(.|\n)*started again by Slurm')
    subprocess.run(['scancel', job], env=slurm, check=True)
    assert wait(slurm, job, log)[0] == 'CANCELLED'


def test_a_limit_too_short_to_train_in_ends_the_job_at_once(slurm, shapes, tmp_path):
    config = small_run(HOSTS['mmseg'], shapes, tmp_path)
    job = submit(slurm, config, tmp_path, SBATCH_TIMELIMIT='1', SAVE_AHEAD='60')
    done, text = wait(slurm, job, tmp_path / f'slurm-{job}.log', seconds=60)
    assert done == 'FAILED'
    assert text.startswith('the time limit of the job, 60 s, leaves no time to train: the run saves 60 s')


def test_a_job_stops_ahead_of_its_limit_and_goes_on(slurm, shapes, tmp_path):
    config = small_run(
        HOSTS['mmseg'], shapes, tmp_path, **{'train_cfg.max_iters': 10**6, 'train_cfg.val_interval': 10**7}
    )
    limit = {'SRUN_ARGS': '--time=3', 'SAVE_AHEAD': '100'}  # Slurm sends it up to a minute earlier
    job = submit(slurm, config, tmp_path, '--cfg-options', 'default_hooks.checkpoint.interval=1000000', **limit)
    log = tmp_path / f'slurm-{job}.log'
    wait_for(log, r'SIGUSR1: saved iteration \d+; exit code 75', seconds=150)
    saved = int(re.search(r'saved iteration (\d+)', log.read_text())[1])
    wait_for(log, rf'started again by Slurm(.|\n)*iter: {saved}\b')
    subprocess.run(['scancel', job], env=slurm, check=True)
    assert wait(slurm, job, log)[0] == 'CANCELLED'


def test_a_job_that_is_told_to_stop_saves_is_queued_again_and_goes_on(slurm, shapes, tmp_path):
    config = small_run(HOSTS['mmdet'], shapes, tmp_path, **{'train_cfg.max_epochs': 30, 'train_cfg.val_interval': 99})
    job = submit(slurm, config, tmp_path)
    log = tmp_path / f'slurm-{job}.log'
    wait_for(log, r'Epoch\(train\) +\[2\]')
    subprocess.run(['scancel', '--signal=USR1', job], env=slurm, check=True)
    wait_for(log, r'saved iteration \d+; exit code 75')
    saved = int(re.search(r'saved iteration (\d+)', log.read_text())[1])
    done, text = wait(slurm, job, log)
    assert done == 'COMPLETED', text
    assert 'started again by Slurm' in text
    assert re.search(rf'resumed epoch: \d+, iter: {saved}\b', text)
    assert (tmp_path / 'epoch_30.pth').exists()
