"""How the processes of a run start, decide together, and end."""

import atexit
import hashlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.dist import (
    all_gather,
    all_gather_object,
    broadcast_object_list,
    get_world_size,
    init_dist,
    is_main_process,
)
from mmengine.utils.dl_utils import set_multi_processing

from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_all_safely

T = TypeVar('T')
# Functions in which an error is one of the options they are given, beside those that build something.
_OF_CONFIGS = {'_maybe_compile', 'before_train', 'configure', 'from_cfg', 'load_config', 'set_randomness'}
_LONGEST = 400
_SHOWN = 4


def run(main: Callable[[], None]) -> None:
    """Run a tool: what a person can mend becomes one line and exit code 1, and no checkpoint runs code.

    Where ``main`` returns, all processes of a group are there, and they end the group together. A process that fails
    leaves alone and does not touch the group, where it could wait for the others without end.
    """
    code = 0
    read_all_safely()
    try:
        main()
        end_group()
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        code = 1 if isinstance(leaving.code, str) else leaving.code or 0
    except Exception as error:
        line = _line(error)
        if line is not None:
            print(f'error: {line}', file=sys.stderr)
        elif torch.distributed.is_initialized():
            traceback.print_exc()
        else:
            raise
        code = 1
    _leave_group(code)
    sys.exit(code)


def _line(error: Exception) -> str | None:
    """What a person is told of an error that is none of the program; None for a bug, which keeps its traceback.

    Refusals of mmsec, packages that are missing, and whatever is raised while the parts of a config are built.
    """
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    ours = Path(__file__).parents[1] in Path(last.filename).parents and (last.line or '').startswith('raise ')
    if isinstance(error, InputError) or (isinstance(error, ValueError) and ours):
        return str(error)
    message = ' '.join(str(error).split())
    message = message if len(message) <= _LONGEST else f'{message[:_LONGEST]}...'
    if isinstance(error, ImportError):
        return message
    names = [frame.name for frame in frames]
    before = names[-2:] == ['train', 'call_hook']  # a hook's before_train; MMEngine raises its TypeError anew
    if before or any(name in _OF_CONFIGS or name.startswith('build_') for name in names):
        place = '/'.join(Path(last.filename).parts[-3:])
        return f'the config cannot be built: {type(error).__name__}: {message} ({place}, line {last.lineno})'
    return None


def end_group() -> None:
    """End the group of processes, where all of them arrive together.

    A process that leaves with its NCCL group alive can be held up by NCCL's threads, or ended by them. A gloo group is
    only waited for; :func:`run` leaves it.
    """
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    if torch.distributed.get_backend() != 'gloo':
        torch.distributed.destroy_process_group()


def _leave_group(code: int) -> None:
    """End this process without Python's finalization if it is in a group.

    In it, a thread of gloo that still drops the tensors of the last collective waits for an interpreter that is gone,
    and aborts the process after all is done; a thread of NCCL waits for the other processes.
    """
    if torch.distributed.is_initialized():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def from_first(decide: Callable[[], T]) -> T:
    """Let the first process decide for all, such as by a look at files, of which another machine may see older ones.

    An :class:`InputError` of ``decide`` ends all processes by :func:`stop_together`.
    """
    outcome: list[Any] = [None]
    if is_main_process():
        try:
            outcome = [decide()]
        except InputError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], InputError):
        stop_together(outcome[0])
    return outcome[0]


def check_same(facts: Mapping[str, object], advice: str = '') -> None:
    """Stop all processes together where one of them does not start as the first does, and say which and how.

    Args:
        facts (Mapping[str, object]): What is to be the same, by name.
        advice (str): Ends the message.

    Raises:
        InputError: On all of them, by :func:`stop_together`.
    """
    own = {name: str(value) for name, value in facts.items()}
    digest = hashlib.sha256(repr(sorted(own.items())).encode()).digest()
    digests = all_gather(torch.tensor([*digest], dtype=torch.uint8))
    if all(torch.equal(digests[0], other) for other in digests):
        return
    first, *others = all_gather_object(own)
    different = []
    for rank, other in enumerate(others, start=1):
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if names:
            shown = ', '.join(
                f'{name} is {other.get(name, "absent")}, of the first {first.get(name, "absent")}'
                for name in names[:_SHOWN]
            )
            different.append(f'process {rank}: {shown}' + (f' and {len(names) - _SHOWN} more' * (len(names) > _SHOWN)))
    shown = '; '.join(different[: 2 * _SHOWN])
    advice = f'. {advice}'.removesuffix('. ')
    stop_together(
        InputError(f'{len(different)} of {len(others) + 1} processes do not start as the first does ({shown}){advice}')
    )


def stop_together(error: InputError) -> NoReturn:
    """Stop all processes with code 1 for an error that all of them know and the first one shows."""
    if get_world_size() == 1:
        raise error
    if is_main_process():
        print(f'error: {error}', file=sys.stderr, flush=True)
    end_group()  # the launcher kills the first process when another has left
    raise SystemExit(1)


def join_processes(cfg: Config) -> None:
    """Connect the processes of a launcher.

    On GPUs MMEngine connects them, with the backend of ``env_cfg.dist_cfg``. Its way asks for a CUDA device whatever
    the backend is. Without a GPU the backend is gloo, and the model is wrapped without device ids.

    Raises:
        InputError: If the launcher left a variable unset.
    """
    if cfg.launcher == 'none':
        return
    on_gpus = torch.cuda.is_available()
    if cfg.launcher == 'slurm':
        names = {'RANK': 'SLURM_PROCID', 'LOCAL_RANK': 'SLURM_LOCALID', 'WORLD_SIZE': 'SLURM_NTASKS'}
    elif cfg.launcher == 'mpi':
        prefix = 'OMPI_COMM_WORLD'
        names = {'RANK': f'{prefix}_RANK', 'LOCAL_RANK': f'{prefix}_LOCAL_RANK', 'WORLD_SIZE': f'{prefix}_SIZE'}
    else:
        names = {name: name for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')}
    address = () if on_gpus and cfg.launcher == 'slurm' else ('MASTER_ADDR', 'MASTER_PORT')  # MMEngine asks Slurm
    missing = [name for name in (*names.values(), *address) if name not in os.environ]
    if missing:
        raise InputError(
            f'--launcher {cfg.launcher}: {", ".join(missing)} not set in the environment. Start with '
            'tools/dist_train.sh or tools/slurm_train.sh, or see docs/distributed_training.md'
        )
    os.environ.update({name: os.environ[source] for name, source in names.items()})
    if on_gpus:
        env_cfg = cfg.get('env_cfg') or {}
        set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)  # or init_dist chooses how workers start
        init_dist(cfg.launcher, **env_cfg.get('dist_cfg', {}))
        return
    torch.distributed.init_process_group('gloo')
    own = {'find_unused_parameters': cfg.get('find_unused_parameters', False), 'broadcast_buffers': False}
    wrapper = {'type': 'MMDistributedDataParallel'} | own | (cfg.get('model_wrapper_cfg') or {})
    cfg.model_wrapper_cfg = wrapper | {'device_ids': None}
