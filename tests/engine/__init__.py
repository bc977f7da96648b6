"""What several tests share: a function in two processes of one group."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing


def in_two_processes(function: Callable, *args) -> list:
    """What ``function(rank, *args)`` returns in each of two processes of a gloo group; a function of a module."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_run, (function, args, folder), nprocs=2)
        return [torch.load(Path(folder, f'{rank}.pth')) for rank in range(2)]


def _run(rank: int, function: Callable, args: tuple, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    torch.save(function(rank, *args), Path(folder, f'{rank}.pth'))
    torch.distributed.destroy_process_group()
