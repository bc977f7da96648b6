"""The folder of a run: held by one run at a time, on a disk that may fill."""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from mmengine.logging import print_log
from mmengine.runner import Runner

from mmsec import compat
from mmsec.errors import InputError

_ROOM = 2**20  # bytes: logs and the config of a run that starts
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
_held: list[TextIO] = []  # a file that is closed is no longer locked


def hold(work_dir: str | Path, patience: float = 0) -> None:
    """Make a work dir and hold it until this process ends, in whatever way.

    The lock is one of POSIX on the file ``.lock``: the kernel, or the server of a network mount, drops it with the
    process, and data workers do not inherit it. Where the mount has no locks the log says so.

    Args:
        work_dir (str | Path): The folder.
        patience (float): Seconds to wait for another run, which may be about to end. Default: 0.

    Raises:
        InputError: If it cannot be written to, such as on a full disk, or another run holds it.
    """
    folder = Path(work_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f'.probe.{os.getpid()}.tmp'
        try:
            with open(probe, 'wb') as file:
                file.write(bytes(_ROOM))
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
        lock = open(folder / '.lock', 'a+')  # noqa: SIM115, it stays open
    except OSError as error:
        raise InputError(
            f"work dir '{work_dir}' cannot be written to: {error.strerror}. Make room, or give another --work-dir"
        ) from error
    _held.append(lock)
    end = time.monotonic() + patience
    said = False
    while not _lock(lock, folder):
        lock.seek(0)
        holder = lock.read().strip() or 'another process'
        if time.monotonic() >= end:
            raise InputError(
                f"work dir '{work_dir}' is in use: {holder} trains in it. Wait for its end, or give another --work-dir"
            )
        if not said:
            print_log(f"work dir '{work_dir}' is in use by {holder}; waiting for its end", 'current')
            said = True
        time.sleep(1)


def _lock(file: TextIO, folder: Path) -> bool:
    """Whether this process has the lock now; True also where there are none."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return False
        print_log(f"'{folder}' is on a mount without locks: nothing keeps a second run out of it", 'current')
        return True
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f'process {os.getpid()} on {platform.node()}')
        file.flush()
    return True


def survive_full_disk(runner: Runner) -> None:
    """Make what a run writes beside checkpoints, logs and pictures, cost no more than a line where the disk refuses."""
    for handler in runner.logger.handlers:
        setattr(handler, 'handleError', functools.partial(_line_lost, handler, []))  # noqa: B010
    for backend in runner.visualizer._vis_backends.values():
        for name in ('add_config', 'add_graph', 'add_image', 'add_scalar', 'add_scalars', 'close'):
            setattr(backend, name, _named(getattr(backend, name), runner))


def _line_lost(handler: logging.Handler, said: list[str], record: logging.LogRecord) -> None:
    """Say once that a disk refuses lines of the log; logging prints a traceback for each."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.Handler.handleError(handler, record)
    elif str(error) not in said:
        said.append(str(error))
        print(f'lines of the log are lost: {error}', file=sys.stderr, flush=True)


def _named(write: Callable, runner: Runner) -> Callable:
    """A function whose OSError is a line in the log."""

    @functools.wraps(write)
    def tried(*args: Any, **options: Any) -> Any:
        try:
            return write(*args, **options)
        except OSError as error:
            runner.logger.error(f'{type(write.__self__).__name__} did not write: {error}. Training goes on')  # type: ignore[attr-defined]

    return tried


class PatientStream:
    """A stream of text, such as stdout, on a disk that may fill: what it does not take is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or not."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush, or not."""
        self._try(self._stream.flush)

    def _try(self, act: Callable, *args: str) -> None:
        try:
            act(*args)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def survive_full_output() -> None:
    """Let what this process prints cost no run."""
    sys.stdout, sys.stderr = PatientStream(sys.stdout), PatientStream(sys.stderr)


def remove(path: str | Path) -> None:
    """Delete a file, if it is there and the disk lets it go."""
    with contextlib.suppress(OSError):
        Path(path).unlink()


def peek(path: str | Path) -> dict:
    """What a checkpoint holds, with tensors that are not read; empty if it cannot be read so.

    No code runs from it. Nothing says that the tensors are whole.
    """
    if not Path(path).is_file():  # a pipe would be waited for
        return {}
    try:
        content = compat.load_data(path, {}, mmap=True)
    except Exception:  # torch.load has no common error: zip, pickle, end of file, runtime
        return {}
    return content if isinstance(content, dict) and isinstance(content.get('meta'), dict) else {}
