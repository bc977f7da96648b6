"""The shell scripts, with stand-ins for torchrun and srun that print how they were called."""

import os
import subprocess

import pytest

from tests.conftest import ROOT

SCRIPTS = ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh']


def launch(script, *args, **environment):
    return subprocess.run(
        [ROOT / 'tools' / script, *args], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.fixture
def stand_ins(tmp_path):
    """Programs that print their arguments, one a line, on PATH."""
    for name in ('srun', 'python'):
        path = tmp_path / name
        path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        path.chmod(0o755)
    return f'{tmp_path}:{os.environ["PATH"]}'


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_and_missing_arguments(script):
    assert launch(script, '--help').stdout.startswith('usage:')
    result = launch(script, 'one')
    assert result.returncode == 2
    assert result.stderr.startswith('usage:')


@pytest.mark.parametrize(('script', 'positional'), [('dist_train.sh', ['c.py']), ('dist_test.sh', ['c.py', 'w.pth'])])
def test_torchrun_is_given_processes_and_port(script, positional, stand_ins):
    lines = launch(script, *positional, '4', '--tta', PATH=stand_ins, PORT='1234', NNODES='2').stdout.splitlines()
    assert lines[:2] == ['-m', 'torch.distributed.run']
    assert {'--nnodes=2', '--nproc-per-node=4', '--master-port=1234'} <= set(lines)
    tool = script.removeprefix('dist_').replace('.sh', '.py')
    assert lines[-len(positional) - 4 :] == [f'{ROOT}/tools/{tool}', *positional, '--launcher', 'pytorch', '--tta']


@pytest.mark.parametrize(
    ('script', 'positional', 'arguments'),
    [
        ('slurm_train.sh', ['c.py', 'work'], ['c.py', '--work-dir', 'work']),
        ('slurm_test.sh', ['c.py', 'w.pth'], ['c.py', 'w.pth']),
    ],
)
def test_srun_is_given_tasks_and_gpus(script, positional, arguments, stand_ins):
    def lines(**environment):
        return launch(script, 'part', 'job', *positional, '--amp', PATH=stand_ins, **environment).stdout.splitlines()

    default = lines()
    assert {'--partition=part', '--job-name=job', '--ntasks=8', '--gres=gpu:8', '--cpus-per-task=5'} <= set(default)
    assert not any(line.startswith('--gpus-per-task') for line in default)
    tool = script.removeprefix('slurm_').replace('.sh', '.py')
    assert default[default.index(f'{ROOT}/tools/{tool}') :] == [
        f'{ROOT}/tools/{tool}',
        *arguments,
        '--amp',
        '--launcher',
        'slurm',
    ]
    small = lines(GPUS='2', CPUS_PER_TASK='3', SRUN_ARGS='--time=1:00 --qos=x')
    assert {'--ntasks=2', '--gres=gpu:2', '--ntasks-per-node=2', '--cpus-per-task=3', '--time=1:00', '--qos=x'} <= set(
        small
    )
    wide = lines(GPUS='16', GPUS_PER_NODE='4')
    assert {'--ntasks=16', '--gres=gpu:4', '--ntasks-per-node=4'} <= set(wide)
    assert not any('gres' in line for line in lines(GPUS='2', GPUS_PER_NODE='0'))


def test_the_port_follows_the_job(tmp_path, stand_ins):
    """A srun that runs the command, as Slurm would, in two jobs."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (tmp_path / 'python').write_text('#!/bin/sh\necho port $MASTER_PORT\n')
    ports = {
        job: launch('slurm_train.sh', 'p', 'j', 'c.py', 'w', PATH=stand_ins, SLURM_JOB_ID=job).stdout.strip()
        for job in ('41', '42', '80042')
    }
    assert ports == {'41': 'port 10041', '42': 'port 10042', '80042': 'port 10042'}
    chosen = launch('slurm_train.sh', 'p', 'j', 'c.py', 'w', PATH=stand_ins, SLURM_JOB_ID='41', MASTER_PORT='7')
    assert chosen.stdout.strip() == 'port 7'
