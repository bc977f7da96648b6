"""Checkpoints that are on the disk whole or not at all."""

import copy
import time
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import BaseStorageBackend, LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmsec.engine.files import write_whole
from mmsec.registry import HOOKS

ROLLING = 'rolling.pth'


@register_backend('mmsec_whole')
class WholeFileBackend(LocalBackend):
    """MMEngine's local files, each written by :func:`write_whole`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to ``filepath``."""
        write_whole(filepath, obj)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's checkpoint hook, for machines that die: it takes the same options.

    Each file is written under a temporary name, flushed to the disk and renamed; the pointer ``last_checkpoint`` is
    written last; an old checkpoint is deleted only when the new one is there. A save that fails, such as on a full
    disk, is logged as an error, earlier checkpoints stay, and training goes on.

    It writes to the work dir, where ``--resume auto`` looks: another ``out_dir``, ``filename_tmpl`` or storage is
    refused. Object stores put a file whole by themselves; MMEngine's own hook does for them.
    """

    backend_args: dict | None  # MMEngine's, as the next one
    file_backend: BaseStorageBackend
    last_saved: tuple[int, int] | None = None  # epochs and iterations that the newest save holds as complete
    tried_at: float = 0.0  # seconds of the monotonic clock: when the last save, good or not, was over

    def before_train(self, runner: Runner) -> None:
        """Look at what an earlier run left, and choose how files are written.

        Raises:
            ValueError: If it would write to another place.
        """
        given = {'out_dir': self.out_dir, 'filename_tmpl': self.filename_tmpl, 'backend_args': self.backend_args}
        own = {'out_dir': (None, getattr(runner, 'work_dir', None)), 'backend_args': (None,)}
        own['filename_tmpl'] = (None, 'epoch_{}.pth', 'iter_{}.pth')
        for name, value in given.items():
            if value not in own[name]:
                raise ValueError(
                    'mmsec.WholeCheckpointHook writes to the work dir, where --resume auto looks; '
                    f'got {name}={value!r}. For another place use CheckpointHook'
                )
        super().before_train(runner)
        self.backend_args = {'backend': 'mmsec_whole'}
        self.tried_at = time.monotonic()
        if is_main_process():
            for leftover in Path(self.out_dir).glob('.*.pth.*.tmp'):
                leftover.unlink(missing_ok=True)  # of a process that was killed while it wrote

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> bool:
        """Save outside the schedule, as ``rolling.pth``, which the next such save replaces.

        Nothing is written if the newest save holds the same state.

        Args:
            runner (Runner): The run.
            epoch (int): Epochs that are complete.
            iteration (int): Iterations that are complete.

        Returns:
            bool: Whether the state is on the disk. The first process knows; on others it is always True.
        """
        return self.last_saved == (epoch, iteration) or self._save(runner, ROLLING, dict(epoch=epoch, iter=iteration))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save, point to it, and only then delete what is too old; MMEngine's deletes first."""
        before = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        kept = [*(old for old in before if old != step), step]
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept)  # a deque of max_keep_ckpts places
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        if not self._save(runner, self.filename_tmpl.format(step), meta):
            if self.max_keep_ckpts > 0:
                self.keep_ckpt_ids.clear()
                self.keep_ckpt_ids.extend(before)
                runner.message_hub.update_info('keep_ckpt_ids', before)
            return
        if self.max_keep_ckpts > 0 and is_main_process():
            for old in kept[: -self.max_keep_ckpts]:
                Path(self.out_dir, self.filename_tmpl.format(old)).unlink(missing_ok=True)

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
        info = runner.message_hub.runtime_info
        before = {key: value for key, value in info.items() if key.startswith('best_')}
        paths = {key: copy.copy(value) for key, value in self.__dict__.items() if key.startswith('best_ckpt_path')}
        later = _DeleteLater()
        backend, self.file_backend = self.file_backend, later
        try:
            super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            runner.logger.error(f'the best checkpoint was not saved: {error}. The one before stays; training goes on')
            self.__dict__.update(paths)
            for key in [key for key in info if key.startswith('best_')]:
                runner.message_hub.pop_info(key)
            for key, value in before.items():
                runner.message_hub.update_info(key, value)
        else:
            for path in map(Path, later.later):
                # A resumed checkpoint says which file was best: nothing outside the work dir is its to delete.
                if path.resolve().parent == Path(self.out_dir).resolve():
                    path.unlink(missing_ok=True)
                else:
                    runner.logger.warning(f"'{path}' was the best checkpoint; it is not in the work dir and stays")
        finally:
            self.file_backend = backend


class _DeleteLater(LocalBackend):
    """Local files; what is to be removed is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.later: list[str] = []

    def remove(self, filepath: str | Path) -> None:
        self.later.append(str(filepath))
