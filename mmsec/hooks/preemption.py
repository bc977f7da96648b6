"""A run that is told to stop saves, says so, and can go on in the middle of an epoch."""

import atexit
import itertools
import logging
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmsec.hooks.whole_checkpoint import WholeCheckpointHook
from mmsec.registry import HOOKS

RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, try again


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM or SIGUSR1 finish the iteration, save and exit with code 75, which means "resume me".

    A signal to any process stops all of them at the same iteration. One that arrives while the run evaluates stops it
    at once: the checkpoint before the evaluation is what it goes on from. A run resumed from a checkpoint of the
    middle of an epoch goes on with the batches that the epoch has left, without loading the others. Needs
    :class:`WholeCheckpointHook` in the run.

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
        self._whole_epoch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Listen.

        Raises:
            ValueError: If the run has no :class:`WholeCheckpointHook`.
        """
        self._checkpoint_hook(runner)
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
        loader = runner.train_dataloader
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return  # MMEngine's iteration-based loop skips by itself
        done = runner.iter - runner.epoch * len(loader)
        if done > 0:
            runner.logger.info(f'epoch {runner.epoch + 1} goes on after {done} of its {len(loader)} iterations')
            self._whole_epoch = loader.batch_sampler
            # DataLoader refuses the assignment, because workers may hold the old one; none has been started yet.
            object.__setattr__(loader, 'batch_sampler', _Remaining(loader.batch_sampler, done))

    def after_train_epoch(self, runner: Runner) -> None:
        """Give the next epoch all its batches."""
        if self._whole_epoch is not None:
            remaining, self._whole_epoch = runner.train_dataloader.batch_sampler, None
            remaining.done = 0  # persistent workers keep the object

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Take signals again."""
        self._block(False)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save and exit if any process was told to."""
        if self._told():
            saved = self._checkpoint_hook(runner).save_now(runner, runner.epoch, runner.iter + 1)
            self._exit(runner, f'saved iteration {runner.iter + 1}' if saved else 'the last save failed')

    def before_val_epoch(self, runner: Runner) -> None:
        """As :meth:`before_train_epoch`, for the workers of the evaluation."""
        self._block(True)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Take signals again."""
        self._block(False)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Exit if any process was told to; there is nothing new to save."""
        if self._told():
            self._exit(runner, f'evaluation left; the newest checkpoint is {self._checkpoint_hook(runner).last_ckpt}')

    def _receive(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)

    def _block(self, on: bool) -> None:
        """Hold signals back while data loaders start their workers.

        Workers inherit this, so a signal to the whole process group, as Slurm sends it, does not kill them.
        """
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
    def _checkpoint_hook(runner: Runner) -> WholeCheckpointHook:
        for hook in runner.hooks:
            if isinstance(hook, WholeCheckpointHook):
                return hook
        raise ValueError("mmsec.PreemptionHook needs default_hooks.checkpoint.type='mmsec.WholeCheckpointHook'")


def _kill_workers() -> None:
    """End data workers that are left; multiprocessing would send them the SIGTERM they hold back, and wait."""
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
