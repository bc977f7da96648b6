"""How many threads compute on the CPU, and how they wait for each other: set before torch loads OpenMP.

Threads of OpenMP spin while they wait. GNU's, which torch's own builds use, spins for some milliseconds. Where other
processes want the cores, a thread that spins takes the time from the one that it waits for.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

SPIN = 1_000
"""Turns of the loop in which a thread of GNU's OpenMP waits; its default is 300000. See docs/performance.md."""

_WAIT = {'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'}
_COUNT = {'OMP_NUM_THREADS', 'MKL_NUM_THREADS'}


def choose_threads() -> None:
    """Set what :func:`settings` says in the environment. It comes too late once torch is imported."""
    os.environ.update(settings(os.environ))


def settings(environ: Mapping[str, str], root: Path = Path('/')) -> dict[str, str]:
    """Variables for OpenMP, but none for what ``environ`` sets already.

    Args:
        environ (Mapping[str, str]): The environment.
        root (Path): Where the files of Linux lie. Default: '/'.

    Returns:
        dict[str, str]: Names and values; the number of threads only where a quota allows fewer than there are cores,
        because torch counts physical cores by itself.
    """
    found = {} if _WAIT & set(environ) else {'GOMP_SPINCOUNT': str(SPIN)}
    cores = usable_cores(root)
    if cores < len(os.sched_getaffinity(0)) and not _COUNT & set(environ):
        found['OMP_NUM_THREADS'] = str(cores)
    return found


def usable_cores(root: Path = Path('/')) -> int:
    """Cores that this process may use at a time, at least 1: those of its affinity, or as many as its quota is for."""
    return max(1, min([len(os.sched_getaffinity(0)), *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of the control groups that this process is in, of both versions of them."""
    groups = root / 'proc/self/cgroup'
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(':', 2)
        if controllers and 'cpu' not in controllers.split(','):
            continue
        for mount in (controllers, 'cpu') if controllers else ('', 'unified'):
            top = root / 'sys/fs/cgroup' / mount
            group = top / path.strip('/')  # in a container perhaps named as the host sees it: then only the top is here
            for folder in (group, *group.parents):
                try:
                    if controllers:
                        quota, period = ((folder / f'cpu.cfs_{name}_us').read_text() for name in ('quota', 'period'))
                    else:
                        quota, period = (folder / 'cpu.max').read_text().split()
                    if quota != 'max' and int(quota) > 0:
                        yield int(quota) / int(period)
                except (OSError, ValueError):  # not limited here, or not ours to read
                    pass
                if folder == top:
                    break
