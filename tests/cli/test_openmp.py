"""Threads by the cores that a process may use, and settings of the user's own that stay."""

import os
import subprocess
import sys

import pytest

from mmsec.cli.openmp import SPIN, settings, usable_cores
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)))


def v1(folder, quota, period):
    folder = f'sys/fs/cgroup/{folder}'
    return {f'{folder}/cpu.cfs_quota_us': f'{quota}\n', f'{folder}/cpu.cfs_period_us': f'{period}\n'}


def v2(folder, content):
    return {f'sys/fs/cgroup/{folder}/cpu.max': f'{content}\n'}


QUOTAS = {  # lines of /proc/self/cgroup, files and their content -> cores
    'no control groups': ('', {}, 8),
    'no limit': ('0::/a', v2('a', 'max 100000'), 8),
    'version 2': ('0::/a/b', v2('a/b', '200000 100000'), 2),
    'of a part of a core': ('0::/', v2('', '50000 100000'), 1),
    'not whole': ('0::/', v2('', '390000 100000'), 3),
    'of more than the affinity': ('0::/', v2('', '3200000 100000'), 8),
    'of a group above': ('0::/a/b', v2('a', '300000 100000') | v2('a/b', 'max 100000'), 3),
    'in a container, named as the host sees it': ('0::/docker/x', v2('', '400000 100000'), 4),
    'version 1': ('4:cpu,cpuacct:/a', v1('cpu,cpuacct/a', 250000, 100000), 2),
    'version 1, mounted by one name': ('4:cpu,cpuacct:/a', v1('cpu/a', 250000, 100000), 2),
    'version 1, no limit': ('4:cpu:/', v1('cpu', -1, 100000), 8),
    'version 1 beside an empty version 2': ('4:cpu:/\n3:cpuset:/x\n0::/', v1('cpu', 500, 100), 5),
    'unreadable': ('0::/', v2('', 'many'), 8),
}


@pytest.mark.parametrize('name', QUOTAS)
def test_cores_by_quota_and_affinity(tmp_path, name):
    lines, files, wanted = QUOTAS[name]
    for path, content in {'proc/self/cgroup': lines, **files}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    assert usable_cores(tmp_path) == wanted
    assert settings({}, tmp_path).get('OMP_NUM_THREADS') == (None if wanted == 8 else str(wanted))


def test_what_users_set_stays(tmp_path):
    (tmp_path / 'proc/self').mkdir(parents=True)
    (tmp_path / 'proc/self/cgroup').write_text('0::/')
    (tmp_path / 'sys/fs/cgroup').mkdir(parents=True)
    (tmp_path / 'sys/fs/cgroup/cpu.max').write_text('200000 100000')
    both = {'GOMP_SPINCOUNT': str(SPIN), 'OMP_NUM_THREADS': '2'}
    assert settings({}, tmp_path) == both
    for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'):
        assert settings({name: '1'}, tmp_path) == {'OMP_NUM_THREADS': '2'}
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        assert settings({name: '7'}, tmp_path) == {'GOMP_SPINCOUNT': str(SPIN)}


@pytest.mark.parametrize('tool', ['train.py', 'test.py', 'infer.py', 'analysis_tools/analyze_clusters.py'])
def test_openmp_reads_what_tools_set(tool):
    """OpenMP shows what it read when torch loads it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(('OMP_', 'GOMP_'))}
    shown = subprocess.run(
        [sys.executable, ROOT / 'tools' / tool, '--help'],
        env=environment | {'OMP_DISPLAY_ENV': 'VERBOSE', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    if 'GOMP_SPINCOUNT' not in shown:
        pytest.skip("torch was not built with GNU's OpenMP")
    assert f"GOMP_SPINCOUNT = '{SPIN}'" in shown
