"""A run that is told to stop saves, says so, and can go on in the middle of an epoch."""

import atexit
import itertools
import logging
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmsec.hooks.whole_checkpoint import WholeCheckpointHook, write_whole
from mmsec.registry import HOOKS

_BEHIND = 'batches_behind'
RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, try again


def exit_when_told() -> None:
    """Until training starts, when :class:`PreemptionHook` takes over, exit with code 75 on SIGTERM and SIGUSR1."""
    for each in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(each, lambda number, frame: sys.exit(RESUME_ME))


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM or SIGUSR1 finish the iteration, save and exit with code 75, which means "resume me".

    A signal to any process stops all of them at the same iteration. One that arrives while the run evaluates stops it
    at once; resumed, the run evaluates first. A run resumed in the middle of an epoch goes on with the batches that the
    epoch has left, without loading the others, if there are as many processes and images a batch as there were;
    otherwise it starts the epoch again. Needs :class:`WholeCheckpointHook` in the run.

    Args:
        signals (Sequence[str]): What tells the run to stop. Default: ('SIGTERM', 'SIGUSR1').
    """

    priority = 'LOWEST'  # after the schedulers, averages and checkpoints of the iteration

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1')) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown:
            raise ValueError(f'signals must be names such as SIGTERM, got {unknown}')
        self.signals = [signal.Signals[name] for name in signals]
        self.received: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._epoch_begin = 0
        self._epoch_batches = 0

    def before_train(self, runner: Runner) -> None:
        """Listen, and make up for an evaluation that a signal ended.

        Raises:
            ValueError: If the run has no :class:`WholeCheckpointHook`.
        """
        self._checkpoint_hook(runner)
        due = self._evaluation_due(runner)
        if due.is_file() and due.read_text() == str(runner.iter) and runner.val_loop is not None:
            runner.logger.info('evaluation that a signal ended')
            runner.val_loop.run()
        barrier()
        if is_main_process():
            due.unlink(missing_ok=True)
        self._handlers = {each: signal.signal(each, self._receive) for each in self.signals}
        atexit.register(_kill_workers)
        self._block(True)

    def after_train(self, runner: Runner) -> None:
        """Listen no longer."""
        self._block(False)
        for each, handler in self._handlers.items():
            signal.signal(each, handler)

    def before_train_epoch(self, runner: Runner) -> None:
        """Leave out the batches that a resumed epoch has behind it."""
        self._block(True)
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return  # MMEngine's iteration-based loop skips by itself
        loader = runner.train_dataloader
        self._epoch_begin, self._epoch_batches = runner.iter, len(loader)
        if _BEHIND not in runner.message_hub.runtime_info:
            return
        behind = runner.message_hub.pop_info(_BEHIND)  # now, or this epoch's own checkpoint would carry it on
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
        """Save and exit if any process was told to."""
        if not self._told():
            return
        iteration = runner.iter + 1
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            behind = {'done': iteration - self._epoch_begin, 'batches': self._epoch_batches}
            runner.message_hub.update_info(_BEHIND, behind)
        saved = self._checkpoint_hook(runner).save_now(runner, runner.epoch, iteration)
        self._exit(runner, f'saved iteration {iteration}' if saved else 'the last save failed')

    def before_val(self, runner: Runner) -> None:
        """Save what the evaluation could lose: nothing can be saved in it, averaged weights may be in the model."""
        hook = self._checkpoint_hook(runner)
        if self._handlers and hook.last_iteration != runner.iter:
            hook.save_now(runner, runner.epoch, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        """As :meth:`before_train_epoch`, for the workers of the evaluation."""
        self._block(True)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Take signals again."""
        self._block(False)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Exit if any process was told to, and leave word that the evaluation is due."""
        if self._handlers and self._told():
            if is_main_process():
                write_whole(self._evaluation_due(runner), str(runner.iter).encode())
            self._exit(runner, f'evaluation left; the newest checkpoint is {self._checkpoint_hook(runner).last_ckpt}')

    def _receive(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)

    def _block(self, on: bool) -> None:
        """Hold signals back while data loaders start their workers.

        Workers inherit this, so a signal to the whole process group, as Slurm sends it, does not kill them.
        """
        if not self._handlers:  # an evaluation without training
            return
        signal.pthread_sigmask(signal.SIG_BLOCK if on else signal.SIG_UNBLOCK, self.signals)

    def _told(self) -> bool:
        """Whether any process has received a signal; every process gets the same answer."""
        told = torch.tensor(int(self.received is not None))
        all_reduce(told, 'max')
        return bool(told)

    def _exit(self, runner: Runner, what: str) -> None:
        """End this process, with the others."""
        barrier()  # the first process may still be writing
        name = self.received.name if self.received else 'a signal to another process'
        runner.logger.warning(f'{name}: {what}; exit code {RESUME_ME}, go on with --resume auto')
        runner.visualizer.close()
        logging.shutdown()
        for each in self.signals:  # srun terminates the tasks that have not yet gone when the first is
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(RESUME_ME)

    @staticmethod
    def _evaluation_due(runner: Runner) -> Path:
        return Path(runner.work_dir, 'evaluation_due')

    @staticmethod
    def _checkpoint_hook(runner: Runner) -> WholeCheckpointHook:
        for hook in runner.hooks:
            if isinstance(hook, WholeCheckpointHook):
                return hook
        raise ValueError("mmsec.PreemptionHook needs default_hooks.checkpoint.type='mmsec.WholeCheckpointHook'")


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
