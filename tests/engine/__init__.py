"""What several tests share: processes of one run, and a function in two processes of one group."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing

from tests.conftest import ROOT


def start(*arguments, **environment) -> subprocess.Popen:
    """Python with these arguments; its output is one text."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'} | environment,
        start_new_session=True,
    )


def toy_run(*arguments, **environment) -> subprocess.Popen:
    """A run of tests/engine/toy_run.py."""
    return start('-m', 'tests.engine.toy_run', *arguments, **environment)


def start_two(first: Sequence, second: Sequence, **environment) -> list[subprocess.Popen]:
    """Two processes of one run, Python with the arguments of each."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    group = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port} | environment
    return [start(*each, RANK=rank, LOCAL_RANK=rank, **group) for rank, each in (('0', first), ('1', second))]


def ends(processes: Sequence[subprocess.Popen]) -> list[str]:
    """The outputs of processes that end by themselves."""
    try:
        return [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def in_two_processes(function: Callable, *args) -> list:
    """What ``function(rank, *args)`` returns in each of two processes of a gloo group; a function of a module."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_run, (function, args, folder), nprocs=2)
        return [torch.load(Path(folder, f'{rank}.pth')) for rank in range(2)]


def _run(rank: int, function: Callable, args: tuple, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    torch.save(function(rank, *args), Path(folder, f'{rank}.pth'))
    torch.distributed.barrier()
    os._exit(0)  # as tools leave a group: the end of gloo's can wait for its own thread, which waits for Python
