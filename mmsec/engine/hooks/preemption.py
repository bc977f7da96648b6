"""A run that is told to stop saves, says so, and can go on in the middle of an epoch."""

import atexit
import itertools
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmsec.engine.files import write_whole
from mmsec.engine.hooks.atomic_checkpoint import SAVE_FAILED, AtomicCheckpointHook, checkpoint_hook
from mmsec.engine.processes import end_group, from_first
from mmsec.engine.work_dir import remove
from mmsec.registry import HOOKS

RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, try again
MARKER = 'resume_me'
TOLD_BY = (signal.SIGTERM, signal.SIGUSR1)  # tools/train.py holds them back until a run listens


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM or SIGUSR1 finish the iteration, save and exit with code 75, which means "resume me".

    A signal to any process stops all of them at the same iteration. One that arrives while the run evaluates stops it
    at once; resumed, the run evaluates first. A run resumed in the middle of an epoch goes on with the batches that the
    epoch has left, without loading the others, if there are as many processes and images a batch as there were;
    otherwise it starts the epoch again. Needs ``AtomicCheckpointHook`` in the run.

    After a good save the file ``resume_me`` in the work dir holds the id of the Slurm job, or nothing outside Slurm: a
    process that is killed on its way out changes the exit code, and this file says what it would have been. It is
    removed when a run begins to train. Where the save fails the code is 74, and there is no file.

    Args:
        signals (Sequence[str]): What tells the run to stop. Default: ('SIGTERM', 'SIGUSR1').
        save_minutes (float, optional): Save after an iteration also when this many minutes have passed since the last
            save, by the clock of the first process, so that a machine that dies loses no more. Default: no such saves.
    """

    priority = 'LOWEST'  # after the schedulers, averages and checkpoints of the iteration

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1'), save_minutes: float | None = None) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown:
            raise ValueError(f'signals must be names such as SIGTERM, got {unknown}')
        if save_minutes is not None and save_minutes <= 0:
            raise ValueError(f'save_minutes must be positive, or None for no saves by time, got {save_minutes}')
        self.signals = [signal.Signals[name] for name in signals]
        self.received: signal.Signals | None = None
        self._checkpoints: AtomicCheckpointHook
        self._handlers: dict[signal.Signals, Any] = {}  # what each signal did before
        self.save_minutes = save_minutes
        self._epoch = -1
        self._epoch_begin = 0
        self._epoch_batches = 0
        self._behind: dict[str, int] | None = None
        self._val_batches = 0
        self._val_saved = False

    def before_train(self, runner: Runner) -> None:
        """Listen, and make up for an evaluation that a signal ended."""
        checkpoints = checkpoint_hook(runner)
        if checkpoints is None:
            raise ValueError("mmsec.PreemptionHook needs default_hooks.checkpoint.type='mmsec.AtomicCheckpointHook'")
        self._checkpoints = checkpoints
        self._handlers = {each: signal.signal(each, self._receive) for each in self.signals}
        _let_forks_end(self._handlers.keys())
        atexit.register(_kill_workers)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*TOLD_BY, *self.signals))
        if self._agree(False)[0]:
            self._exit(runner, True, 'training had not begun')
        due = Path(runner.work_dir, 'evaluation_due')
        if runner.val_loop is not None and from_first(lambda: due.is_file() and due.read_text() == str(runner.iter)):
            runner.logger.info('evaluation that a signal ended')
            runner.val_loop.run()
        if is_main_process():
            remove(due)
            remove(Path(runner.work_dir, MARKER))
        self._block(True)

    def after_train(self, runner: Runner) -> None:
        """Listen no longer."""
        self._block(False)
        for each, handler in self._handlers.items():
            signal.signal(each, handler)
        self._handlers.clear()

    def before_train_epoch(self, runner: Runner) -> None:
        """Leave out the batches that a resumed epoch has behind it."""
        self._block(True)
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return  # MMEngine's iteration-based loop skips by itself
        loader = runner.train_dataloader
        self._epoch, self._epoch_begin, self._epoch_batches = runner.epoch, runner.iter, len(loader)
        behind, self._behind = self._behind, None
        if behind is None:
            return
        if behind['batches'] != len(loader):
            had = behind['batches']
            runner.logger.warning(f'epoch {runner.epoch + 1} starts again: it had {had} iterations, now {len(loader)}')
            return
        done = behind['done']
        self._epoch_begin -= done
        runner.logger.info(f'epoch {runner.epoch + 1} goes on after {done} of its {len(loader)} iterations')
        # DataLoader refuses the assignment, because workers may hold the old one; none has been started yet.
        object.__setattr__(loader, 'batch_sampler', _Remaining(loader.batch_sampler, done))

    def after_train_epoch(self, runner: Runner) -> None:
        """Give the next epoch all its batches."""
        if isinstance(runner.train_dataloader.batch_sampler, _Remaining):
            runner.train_dataloader.batch_sampler.done = 0  # persistent workers keep the object

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Take signals again."""
        self._block(False)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save if any process was told to stop, or if it is time to; exit if told to."""
        waited = time.monotonic() - self._checkpoints.tried_at  # seconds
        told, due = self._agree(self.save_minutes is not None and waited >= 60 * self.save_minutes)
        if not told and not due:
            return
        iteration = runner.iter + 1
        saved = from_first(lambda: self._checkpoints.save_now(runner, runner.epoch, iteration))
        if told:
            if self._evaluation_is_next(runner):
                self._leave_word(runner, 'evaluation_due', str(iteration))
            self._exit(runner, saved, f'saved iteration {iteration}')
        if saved:
            runner.logger.info(f'saved iteration {iteration}, {self.save_minutes:g} minutes after the last checkpoint')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note how far an epoch is that is not complete."""
        meta = checkpoint['meta']
        if isinstance(runner.train_loop, EpochBasedTrainLoop) and meta['epoch'] == self._epoch:
            meta['batches_behind'] = {'done': meta['iter'] - self._epoch_begin, 'batches': self._epoch_batches}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read it again where the run goes on from the checkpoint."""
        if runner._resume:
            self._behind = checkpoint['meta'].get('batches_behind')

    def before_val(self, runner: Runner) -> None:
        """Save what the evaluation could lose: nothing can be saved in it, averaged weights may be in the model."""
        if self._handlers:
            self._val_saved = from_first(lambda: self._checkpoints.save_now(runner, runner.epoch, runner.iter))

    def before_val_epoch(self, runner: Runner) -> None:
        """As :meth:`before_train_epoch`, for the workers of the evaluation."""
        self._block(True)
        if self._handlers:
            batches = torch.tensor(len(runner.val_dataloader))
            all_reduce(batches, 'min')  # processes may have unequal numbers of them
            self._val_batches = int(batches)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Take signals again."""
        self._block(False)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Exit if any process was told to, and leave word that the evaluation is due."""
        # Only after batches that all processes have. A later signal is acted on after the next training iteration.
        if self._handlers and batch_idx < self._val_batches and self._agree(False)[0]:
            self._leave_word(runner, 'evaluation_due', str(runner.iter))
            newest = self._checkpoints.last_ckpt
            self._exit(runner, self._val_saved, f'evaluation left; the newest checkpoint is {newest}')

    @staticmethod
    def _evaluation_is_next(runner: Runner) -> bool:
        """Whether a run of iterations evaluates now; resumed, MMEngine would train on first. Epochs end once more."""
        loop, iteration = runner.train_loop, runner.iter + 1
        if runner.val_loop is None or isinstance(loop, EpochBasedTrainLoop) or iteration < loop.val_begin:
            return False
        return iteration % loop.val_interval == 0 or iteration == loop.max_iters

    def _receive(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)

    def _block(self, on: bool) -> None:
        """Hold signals back while workers start, which inherit this: a signal to the whole group does not kill them."""
        if not self._handlers:  # an evaluation without training
            return
        signal.pthread_sigmask(signal.SIG_BLOCK if on else signal.SIG_UNBLOCK, self.signals)

    def _agree(self, due: bool) -> tuple[bool, bool]:
        """For all processes: whether any has received a signal, and whether the first finds a save due."""
        flags = torch.tensor([self.received is not None, due and is_main_process()], dtype=torch.uint8)
        all_reduce(flags, 'max')
        told, due = flags.tolist()
        return bool(told), bool(due)

    def _exit(self, runner: Runner, saved: bool, what: str) -> None:
        """End this process, with the others."""
        name = self.received.name if self.received else 'a signal to another process'
        if saved:
            code = RESUME_ME
            self._leave_word(runner, MARKER, os.environ.get('SLURM_JOB_ID', ''))
        else:
            code, what = SAVE_FAILED, 'the last save failed'
        runner.logger.warning(f'{name}: {what}; exit code {code}, go on with --resume auto')
        runner.visualizer.close()
        logging.shutdown()
        for each in self.signals:  # srun terminates the tasks that have not yet gone when the first is
            signal.signal(each, signal.SIG_IGN)
        end_group()
        raise SystemExit(code)

    @staticmethod
    def _leave_word(runner: Runner, name: str, text: str) -> None:
        """Write a small file into the work dir."""
        if not is_main_process():
            return
        try:
            write_whole(Path(runner.work_dir, name), text.encode())
        except OSError as error:
            runner.logger.error(f"'{name}' was not written to the work dir: {error}")


def _let_forks_end(signals: Collection[signal.Signals]) -> None:
    """Let these signals end forks of the run. With its handler they would go on, and a pool waits for their end."""
    mask = threading.local()

    def hold() -> None:  # Python forgets a signal that comes before it has finished forking
        mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask.before)

    def end() -> None:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=end)


def _kill_workers() -> None:
    """End data workers that are left; multiprocessing would send them the SIGTERM they hold back, and wait."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would call their end an error
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class _Remaining:
    """A batch sampler without the first ``done`` batches of each pass."""

    def __init__(self, batches: Any, done: int) -> None:
        self.batches = batches
        self.done = done

    def __iter__(self) -> Iterator:
        return itertools.islice(self.batches, self.done, None)

    def __len__(self) -> int:
        return len(self.batches) - self.done

    def __getattr__(self, name: str) -> Any:  # sampler, batch_size: others look at them
        return getattr(self.batches, name)
