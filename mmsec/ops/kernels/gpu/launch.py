"""Where Triton kernels start, and the sizes of their tiles."""

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
import triton
from triton.errors import TritonError

from mmsec.ops.kernels import table
from mmsec.ops.kernels.dispatch import KernelError

Tile = dict[str, int]


class Variant(NamedTuple):
    """One compilation of a kernel, as a check without a GPU asks for it.

    Attributes:
        kernel (Any): The kernel.
        types (dict[str, str]): Types of the arguments that are not constants, such as ``'*bf16'``, 'i32' or 'fp32'.
        constants (dict[str, Any]): The constants.
        warps (int): Warps of a program.
        stages (int): Stages of its pipeline. Default: 2.
    """

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int = 2


def variant(kernel: Any, constants: dict[str, Any], types: dict[str, str], others: str = 'i32') -> Variant:
    """A variant with those of ``constants``, 'warps' among them, that the kernel takes; the rest has a type."""
    own = {name: constants[name] for name in kernel.arg_names if name in constants}
    typed = {name: types.get(name, others) for name in kernel.arg_names if name not in constants}
    return Variant(kernel, typed, own, constants['warps'])


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, stages: int = 2) -> None:
    """Start a kernel; every launch of this package passes here, so that tests can count them.

    Args:
        kernel (Any): A function under ``triton.jit``.
        grid (tuple[int, ...]): Programs along up to three dimensions.
        args (Any): Its arguments in order, constants included.
        warps (int): Warps of a program. Default: 4.
        stages (int): Stages of its pipeline. Default: 2.

    Raises:
        KernelError: If it cannot be compiled or started, for example because there is no C compiler.
    """
    try:
        kernel[grid](*args, num_warps=warps, num_stages=stages)
    except (TritonError, subprocess.CalledProcessError, OSError, RuntimeError) as error:
        _Lock.release()
        raise KernelError(f'{kernel.__name__}: {error} ({table.SWITCH}=off leaves all kernels out)') from error


def refuse_second_derivatives() -> None:
    """Raise where a backward pass is to be differentiated again: kernels have no second derivatives.

    Raises:
        RuntimeError: With ``create_graph=True``.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f'kernels have no second derivatives (create_graph=True); {table.SWITCH}=off leaves them out'
        )


def tile(kernel: str, key: str, candidates: list[Tile]) -> Tile:
    """The sizes that were measured as the fastest on this kind of device, or else the first candidate.

    Args:
        kernel (str): Name of the kernel, as in the table.
        key (str): What the choice depends on, such as 'C64 K3'.
        candidates (list[Tile]): What may be chosen.

    Returns:
        Tile: Constants and 'warps'.
    """
    return table.tile(kernel, key) or candidates[0]


class _Lock:
    """A file that one process of this machine's user holds while it compiles; the next finds the result on disk."""

    file: IO[str] | None = None

    @classmethod
    def take(cls, key: Any, repr: Any, fn: Any, compile: Any, is_manual_warmup: Any, already_compiled: Any) -> None:
        """Triton calls this before it compiles, with such names. After two minutes nobody waits any longer."""
        if cls.file is not None or not fn.module.startswith('mmsec.'):
            return
        cls.file = (Path(tempfile.gettempdir()) / f'mmsec_triton_{os.getuid()}.lock').open('w')
        for _ in range(1200):
            try:
                return fcntl.flock(cls.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)

    @classmethod
    def let_go(cls, key: Any, repr: Any, fn: Any, compile: Any, is_manual_warmup: Any, already_compiled: Any) -> None:
        """Triton calls this behind it."""
        cls.release()

    @classmethod
    def release(cls) -> None:
        """Let the next process compile."""
        if cls.file is not None:
            cls.file.close()
            cls.file = None


if int(os.environ.get('LOCAL_WORLD_SIZE', os.environ.get('SLURM_NTASKS_PER_NODE', '1')).split('(')[0]) > 1:
    triton.knobs.runtime.jit_cache_hook = _Lock.take
    triton.knobs.runtime.jit_post_compile_hook = _Lock.let_go
