"""The shell scripts, with stand-ins for torchrun and srun that print how they were called."""

import os
import re
import subprocess

import pytest

from tests.conftest import ROOT

SCRIPTS = ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh']


def launch(script, *args, cwd=None, **environment):
    return subprocess.run(
        [ROOT / 'tools' / script, *args], capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}
    )


@pytest.fixture
def stand_ins(tmp_path):
    """Programs that print their arguments, one a line, on PATH."""
    for name in ('srun', 'sbatch', 'python', 'squeue', 'scontrol'):
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


SLURM = [
    ('slurm_train.sh', ['c.py', 'work'], ['c.py', '--work-dir', 'work']),
    ('slurm_test.sh', ['c.py', 'w.pth'], ['c.py', 'w.pth']),
]


@pytest.mark.parametrize(('script', 'positional', 'arguments'), SLURM)
def test_slurm_is_given_tasks_and_gpus(script, positional, arguments, stand_ins, tmp_path):
    def lines(**environment):
        command = launch(script, 'part', 'job', *positional, '--amp', cwd=tmp_path, PATH=stand_ins, **environment)
        return command.stdout.removeprefix('submitted job ').splitlines()

    default = lines()
    assert {'--partition=part', '--job-name=job', '--ntasks=8', '--gres=gpu:8', '--cpus-per-task=5'} <= set(default)
    assert not any(line.startswith('--gpus-per-task') for line in default)
    tool = f'{ROOT}/tools/{script.removeprefix("slurm_").replace(".sh", ".py")}'
    first = default.index(arguments[0])
    assert default[first : first + len(arguments)] == arguments
    assert default[first + len(arguments)].split(';')[0] == '--amp'
    assert script == 'slurm_train.sh' or default[first - 1] == tool
    small = lines(GPUS='2', CPUS_PER_TASK='3', SRUN_ARGS='--time=1:00:00 --qos=x')
    assert {'--ntasks=2', '--gres=gpu:2', '--ntasks-per-node=2', '--cpus-per-task=3'} <= set(small)
    assert {'--time=1:00:00', '--qos=x'} <= set(small)
    wide = lines(GPUS='16', GPUS_PER_NODE='4')
    assert {'--ntasks=16', '--gres=gpu:4', '--ntasks-per-node=4'} <= set(wide)
    assert not any('gres' in line for line in lines(GPUS='2', GPUS_PER_NODE='0'))


def test_training_is_told_ahead_of_its_limit_and_started_again(stand_ins, tmp_path):
    output = launch('slurm_train.sh', 'p', 'j', 'c.py', 'w', cwd=tmp_path, PATH=stand_ins, SAVE_AHEAD='90').stdout
    assert {'--requeue', '--signal=USR1@90', '--output=w/slurm-%j.log'} <= set(output.splitlines())
    assert (tmp_path / 'w').is_dir()


@pytest.mark.parametrize(
    'value', ['abc', '08', '0x8', '1e1', '-1', '1.5', '8 ', '5m', '9' * 20, 'a[$(touch bad)]', 'HOME', '1\n2']
)
@pytest.mark.parametrize(
    ('name', 'script'),
    [
        *(
            (name, script)
            for script in SCRIPTS[2:]
            for name in ('GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK', 'MASTER_PORT')
        ),
        ('SAVE_AHEAD', 'slurm_train.sh'),
        *((name, script) for script in SCRIPTS[:2] for name in ('GPUS', 'NNODES', 'NODE_RANK', 'PORT')),
    ],
)
def test_what_is_no_number_is_one_line_before_anything_starts(stand_ins, tmp_path, script, name, value):
    given = {'slurm_train.sh': ['p', 'j', 'c.py', 'w'], 'slurm_test.sh': ['p', 'j', 'c.py', 'w.pth']}
    given |= {'dist_train.sh': ['c.py', '2'], 'dist_test.sh': ['c.py', 'w.pth', '2']}
    arguments = given[script]
    if name == 'GPUS' and script.startswith('dist'):
        arguments[-1] = value
    refused = launch(script, *arguments, cwd=tmp_path, PATH=stand_ins, **{name: value})
    assert refused.returncode == 2
    assert refused.stdout == ''
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f'{script}: {name} must be a whole number from ')
    assert not (tmp_path / 'w').exists()
    assert not (tmp_path / 'bad').exists()


@pytest.mark.parametrize(
    ('name', 'value'),
    [('GPUS', '0'), ('CPUS_PER_TASK', '0'), ('SAVE_AHEAD', '0'), ('SAVE_AHEAD', '65536'), ('MASTER_PORT', '65536')],
)
def test_numbers_out_of_range_are_one_line(stand_ins, tmp_path, name, value):
    refused = launch('slurm_train.sh', 'p', 'j', 'c.py', 'w', cwd=tmp_path, PATH=stand_ins, **{name: value})
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, '', 1)


def test_the_rank_of_a_node_is_below_their_number(stand_ins):
    assert launch('dist_train.sh', 'c.py', '1', PATH=stand_ins, NNODES='2', NODE_RANK='1').returncode == 0
    assert 'from 0 to 1' in launch('dist_train.sh', 'c.py', '1', PATH=stand_ins, NNODES='2', NODE_RANK='2').stderr


def test_names_may_have_percent_signs_spaces_and_dashes(stand_ins, tmp_path):
    def lines(work_dir):
        names = ['p', '-j %x', '-c.py', work_dir]
        return launch('slurm_train.sh', *names, cwd=tmp_path, PATH=stand_ins).stdout.splitlines()

    assert {'--output=50%% a/slurm-%j.log', '--job-name=-j %x', './-c.py', '50% a'} <= set(lines('50% a'))
    assert {'--output=./-w/slurm-%j.log', './-w'} <= set(lines('-w'))
    assert {path.name for path in tmp_path.iterdir()} >= {'50% a', '-w'}
    assert '--comment=*' in launch(*TRAIN, cwd=tmp_path, PATH=stand_ins, SRUN_ARGS='--comment=*').stdout
    told = launch('dist_train.sh', '-c.py', '1', PATH=stand_ins).stdout.splitlines()
    assert './-c.py' in told


TRAIN = ['slurm_train.sh', 'p', 'j', 'c.py', 'w']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['slurm_train.sh', 'p', 'j', 'c.py', '--amp'], 'WORK_DIR stands before all options, got --amp'),
        (['slurm_train.sh', 'p', 'j', '--amp', 'w'], 'CONFIG stands before all options'),
        (['slurm_test.sh', 'p', 'j', '--out', 'w.pth'], 'CONFIG stands before all options'),
        (['dist_test.sh', 'c.py', '--out', '2'], 'CHECKPOINT stands before all options'),
        (['slurm_train.sh', 'p', 'j', 'c.py', r'a\b'], 'Slurm writes no log into a WORK_DIR with a backslash'),
    ],
)
def test_names_that_cannot_be_meant_are_one_line(stand_ins, tmp_path, arguments, message):
    refused = launch(*arguments, cwd=tmp_path, PATH=stand_ins)
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, '', 1)
    assert message in refused.stderr


@pytest.fixture
def in_a_job(tmp_path, stand_ins):
    """Runs slurm_job.sh with a srun that runs the task, as Slurm would, and a scontrol that says what it was asked."""
    (tmp_path / 'srun').write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\n"$@"; exit ${SRUN_CODE:-$?}\n')
    (tmp_path / 'squeue').write_text('#!/bin/sh\necho ${LIMIT:-UNLIMITED}\n')
    (tmp_path / 'scontrol').write_text('#!/bin/sh\necho scontrol "$@"\n')
    (tmp_path / 'python').write_text(
        '#!/bin/sh\necho $MASTER_ADDR:$MASTER_PORT "$@"; [ -n "$SAVED" ] && printf $SAVED >resume_me; exit ${CODE:-0}\n'
    )

    def run(*arguments, **environment):
        settings = {'PATH': stand_ins, 'SLURM_JOB_ID': '41', 'SLURM_CPUS_PER_TASK': '1', 'PYTHON': 'python'}
        given = [ROOT / 'tools', tmp_path, '300', 'c.py', *arguments]
        return launch('slurm_job.sh', *given, cwd=tmp_path, **settings | environment)

    return run


def test_the_port_follows_the_job(in_a_job):
    assert in_a_job().stdout == f'127.0.0.1:10041 -u {ROOT}/tools/train.py c.py --launcher slurm\n'
    assert in_a_job(SLURM_JOB_ID='80042').stdout.startswith('127.0.0.1:10042 ')
    assert in_a_job(MASTER_PORT='7', MASTER_ADDR='n1').stdout.startswith('n1:7 ')
    several = in_a_job(SLURM_JOB_NUM_NODES='2', SLURM_JOB_NODELIST='n[1-2]')
    assert several.stdout.startswith('scontrol show hostnames n[1-2]:10041 ')


def test_a_container_without_scontrol_is_told_what_to_set(in_a_job, tmp_path):
    (tmp_path / 'scontrol').unlink()
    result = in_a_job(SLURM_JOB_NUM_NODES='2', SLURM_JOB_NODELIST='n[1-2]')
    assert result.returncode == 2
    assert 'set MASTER_ADDR to the first node' in result.stderr


@pytest.mark.parametrize(
    ('environment', 'code', 'again'),
    [
        ({'CODE': '75'}, 75, True),
        ({'CODE': '75', 'SAVED': '41', 'SRUN_CODE': '137'}, 137, True),  # killed on its way out, behind the save
        ({'CODE': '1'}, 1, False),
        ({'CODE': '1', 'SAVED': '40'}, 1, False),  # another job has saved
        ({'CODE': '74'}, 74, False),  # the save failed
    ],
    ids=str,
)
def test_a_run_that_was_told_to_stop_and_has_saved_is_queued_again(in_a_job, tmp_path, environment, code, again):
    (tmp_path / 'resume_me').write_text('41')  # of the attempt before
    ended = in_a_job(**environment)
    assert ended.returncode == code
    assert ('scontrol requeue 41' in ended.stdout) == again
    assert ('not queued again' in ended.stderr) != again


def test_a_job_that_is_started_again_resumes(in_a_job):
    again = in_a_job('--resume', 'p.pth', SLURM_RESTART_COUNT='1').stdout
    assert 'c.py --resume p.pth --restarted --launcher slurm' in again


def test_a_task_that_is_killed_on_its_way_out_does_not_lose_the_job(in_a_job, tmp_path):
    killed = in_a_job(CODE='75', SAVED='41', SRUN_CODE='137')
    assert killed.returncode == 137
    assert 'scontrol requeue 41' in killed.stdout
    assert (tmp_path / 'resume_me').exists()
    assert 'requeue' not in in_a_job(CODE='1').stdout  # the file is one of the attempt before
    assert 'requeue' not in in_a_job(CODE='1', SAVED='40').stdout  # and this one of another job


def test_times_of_slurm_are_read():
    wanted = {'5': 300, '4:59': 299, '0:05:00': 300, '1:00:00': 3600, '0-0:04:09': 249, '1-0': 86400}
    wanted |= {'2-03:04': 183840, '08:09': 489, '0': '', 'UNLIMITED': '', '': ''}
    script = f'set -euo pipefail; . {ROOT}/tools/slurm_run.sh; for time; do echo "$(slurm_seconds "$time")"; done'
    command = ['bash', '-c', script, 'bash', *wanted]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == list(map(str, wanted.values()))


@pytest.mark.parametrize('option', ['--time=5', '--time 0:05:00', '-t 5', '-t4:59', '--time=99 --time=5'])
def test_a_time_limit_that_is_over_before_training_is_refused(stand_ins, tmp_path, option):
    refused = launch('slurm_train.sh', 'p', 'j', 'c.py', 'w', cwd=tmp_path, PATH=stand_ins, SRUN_ARGS=option)
    assert refused.returncode == 2
    assert refused.stdout == ''
    assert re.search(r'a time limit of \d+ s leaves no time to train: the run saves 300 s', refused.stderr)
    longer = {'SRUN_ARGS': option, 'SAVE_AHEAD': '200'}
    assert launch('slurm_train.sh', 'p', 'j', 'c.py', 'w', cwd=tmp_path, PATH=stand_ins, **longer).returncode == 0


def test_a_limit_of_the_partition_that_is_over_before_training_is_refused_in_the_job(in_a_job):
    refused = in_a_job(LIMIT='5:00')
    assert refused.returncode == 2
    assert refused.stdout == ''
    assert 'the time limit of the job, 300 s, leaves no time to train' in refused.stderr
    assert in_a_job(LIMIT='5:01').returncode == 0
