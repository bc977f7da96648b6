"""Checkpoints that are on the disk whole or not at all."""

import copy
import time
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmsec.engine.files import write_whole
from mmsec.registry import HOOKS

ROLLING = 'rolling.pth'


@register_backend('mmsec_atomic')
class AtomicFileBackend(LocalBackend):
    """MMEngine's local files, each written by :func:`write_whole`; what is to be removed is only noted."""

    def __init__(self) -> None:
        super().__init__()
        self.outdated: list[Path] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to ``filepath``."""
        write_whole(filepath, obj)

    def remove(self, filepath: str | Path) -> None:
        """Note that ``filepath`` is outdated."""
        self.outdated.append(Path(filepath))


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's checkpoint hook, for machines that die: it takes the same options.

    Each file is written under a temporary name, flushed to the disk and renamed; the pointer ``last_checkpoint`` is
    written last; an old checkpoint is deleted only when the new one is there. A save that fails, such as on a full
    disk, is logged as an error, earlier checkpoints stay, and training goes on.

    It writes to the work dir, where ``--resume auto`` looks: another ``out_dir``, ``filename_tmpl`` or storage is
    refused. Object stores put a file whole by themselves; MMEngine's own hook does for them.
    """

    backend_args: dict | None  # MMEngine's, as the next one
    file_backend: AtomicFileBackend
    last_saved: tuple[int, int] | None = None  # epochs and iterations that the newest save holds as complete
    tried_at: float = 0.0  # seconds of the monotonic clock: when the last save, good or not, was over

    def before_train(self, runner: Runner) -> None:
        """Refuse another place, choose how files are written, and delete what a process that was killed left."""
        own: dict[str, tuple] = {'out_dir': (None, runner.work_dir), 'backend_args': (None,)}
        own['filename_tmpl'] = (None, 'epoch_{}.pth', 'iter_{}.pth')
        for name, values in own.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    'mmsec.AtomicCheckpointHook writes to the work dir, where --resume auto looks; '
                    f'got {name}={getattr(self, name)!r}. For another place use CheckpointHook'
                )
        super().before_train(runner)
        self.backend_args = {'backend': 'mmsec_atomic'}
        self.file_backend = AtomicFileBackend()
        self.tried_at = time.monotonic()
        if is_main_process():
            for leftover in Path(self.out_dir).glob('.*.pth.*.tmp'):
                leftover.unlink(missing_ok=True)

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> bool:
        """Save so many complete epochs and iterations as ``rolling.pth``, unless the newest save holds the same state.

        Returns:
            bool: Whether the state is on the disk. The first process knows; on others it is always True.
        """
        return self.last_saved == (epoch, iteration) or self._save(runner, ROLLING, dict(epoch=epoch, iter=iteration))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save, point to it, and only then delete what is too old; MMEngine's deletes first."""
        name = self.filename_tmpl.format(step)
        if self.max_keep_ckpts <= 0:
            self._save(runner, name, meta)
            return
        before = list(self.keep_ckpt_ids)
        kept = [*(old for old in before if old != step), step]
        self._keep(runner, kept)
        if not self._save(runner, name, meta):
            self._keep(runner, before)
        elif is_main_process():
            for old in kept[: -self.max_keep_ckpts]:
                Path(self.out_dir, self.filename_tmpl.format(old)).unlink(missing_ok=True)

    def _keep(self, runner: Runner, steps: list[int]) -> None:
        """Note which checkpoints there are, also in those that are saved."""
        self.keep_ckpt_ids.clear()
        self.keep_ckpt_ids.extend(steps)  # a deque of max_keep_ckpts places
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save(self, runner: Runner, name: str, meta: dict) -> bool:
        """Save under ``name`` and point to it; False where the disk refuses."""
        path = str(Path(self.out_dir, name))
        runner.message_hub.update_info('last_ckpt', path)
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                write_whole(Path(runner.work_dir, 'last_checkpoint'), path.encode())
        except OSError as error:
            runner.logger.error(f"checkpoint '{path}' was not saved: {error}. Earlier ones stay; training goes on")
            return False
        finally:
            self.tried_at = time.monotonic()
        self.last_ckpt, self.last_saved = path, (meta['epoch'], meta['iter'])
        return True

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best so far, if asked to, and delete the one before only then; a full disk does not end the run."""
        outdated = self.file_backend.outdated
        states = (self.__dict__, runner.message_hub.runtime_info)  # in which MMEngine notes what is best
        before = [{key: copy.copy(value) for key, value in _best_of(state).items()} for state in states]
        try:
            super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            runner.logger.error(f'the best checkpoint was not saved: {error}. The one before stays; training goes on')
            outdated.clear()
            for state, old in zip(states, before, strict=True):
                for key in _best_of(state):
                    del state[key]
                state.update(old)
        for path in outdated:
            # A resumed checkpoint says which file was best: nothing outside the work dir is its to delete.
            if path.resolve().parent == Path(self.out_dir).resolve():
                path.unlink(missing_ok=True)
            else:
                runner.logger.warning(f"'{path}' was the best checkpoint; it is not in the work dir and stays")
        outdated.clear()


def _best_of(state: dict) -> dict:
    """What a state says of the best checkpoint."""
    return {key: value for key, value in state.items() if key.startswith('best_')}


def checkpoint_hook(runner: Runner) -> AtomicCheckpointHook | None:
    """The hook of a run that can save at any time, if it has one."""
    return next((hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)), None)
