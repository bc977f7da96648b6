"""Checkpoints that are on the disk whole or not at all."""

import copy
import re
import time
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmsec.engine.files import write_whole
from mmsec.engine.processes import end_group, from_first
from mmsec.engine.work_dir import peek, remove, survive_full_disk
from mmsec.registry import HOOKS

ROLLING = 'rolling.pth'
SAVE_FAILED = 74  # EX_IOERR of sysexits.h
_NUMBERED = re.compile(r'(epoch|iter)_(\d+)\.pth')


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
    disk, is logged as an error, earlier checkpoints stay, and training goes on; so it does where logs and pictures
    cannot be written. A run whose last save failed tries once more at its end, and ends with exit code 74 if that
    fails, too.

    Each checkpoint names its run in ``meta['run']``, by the time at which it began: from scratch, or from a checkpoint
    other than the newest.

    It writes to the work dir, where ``--resume auto`` looks: another ``out_dir``, ``filename_tmpl`` or storage is
    refused. Object stores put a file whole by themselves; MMEngine's own hook does for them.
    """

    backend_args: dict | None  # MMEngine's, as the next one
    file_backend: AtomicFileBackend
    last_saved: tuple[int, int] | None = None  # epochs and iterations that the newest save holds as complete
    tried_at: float = 0.0  # seconds of the monotonic clock: when the last save, good or not, was over
    _failed: bool = False  # the last save
    _run: str | None = None

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
        if self._run is None:
            self._run = runner.timestamp
            if any(_NUMBERED.fullmatch(path.name) for path in Path(runner.work_dir).glob('*.pth')):
                runner.logger.warning(
                    'the work dir holds checkpoints of an earlier run, from which --resume goes on until this run saves'
                )
        else:
            runner.message_hub.runtime_info.update(from_first(lambda: self._go_on(runner)))
        super().before_train(runner)
        self.backend_args = {'backend': 'mmsec_atomic'}
        self.file_backend = AtomicFileBackend()
        self.tried_at = time.monotonic()
        survive_full_disk(runner)
        if is_main_process():
            for leftover in Path(self.out_dir).glob('.*.[0-9]*.tmp'):
                remove(leftover)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on as the run that it names."""
        if runner._resume:
            self._run = checkpoint['meta'].get('run') or ''

    def _go_on(self, runner: Runner) -> dict[str, Any]:
        """Look at what the resumed run left in the work dir; what its message hub is to know of the best checkpoint."""
        folder = Path(runner.work_dir)
        if Path(runner._load_from or '').resolve().parent == folder.resolve():
            self.last_saved = runner.epoch, runner.iter
        best: dict[str, Any] = {}
        found = {path: peek(path) for path in folder.glob('best_*.pth')} if self._run and self.save_best else {}
        own = {path: content for path, content in found.items() if content and content['meta'].get('run') == self._run}
        if own:  # the newest may be of an evaluation after the state that is gone on from
            best = _best_of(max(own.values(), key=lambda each: each['meta']['iter'])['message_hub']['runtime_info'])
            best = {key: str(folder / Path(value).name) if 'ckpt' in key else value for key, value in best.items()}
            for path in own:
                if str(path) not in best.values():
                    remove(path)
        reached = {'epoch': runner.epoch, 'iter': runner.iter}
        steps = [_NUMBERED.fullmatch(path.name) for path in folder.glob('*.pth')]
        if any(step and int(step[2]) > reached[step[1]] for step in steps):  # a run of its own from here
            self._run = runner.timestamp
        return best

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Name the run."""
        checkpoint['meta']['run'] = self._run

    def after_run(self, runner: Runner) -> None:
        """Try a save that failed once more; without it the run is not what it seems."""
        if from_first(lambda: self._failed and not self.save_now(runner, runner.epoch, runner.iter)):
            runner.logger.error(f'the last state of the run is not on the disk; exit code {SAVE_FAILED}')
            end_group()
            raise SystemExit(SAVE_FAILED)

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
            return
        for old in kept[: -self.max_keep_ckpts] if is_main_process() else []:
            remove(Path(self.out_dir, self.filename_tmpl.format(old)))
        self._keep(runner, kept[-self.max_keep_ckpts :])

    def _keep(self, runner: Runner, steps: list[int]) -> None:
        """Note which checkpoints there are, also in those that are saved; a resumed run deletes what is too old."""
        self.keep_ckpt_ids.clear()
        self.keep_ckpt_ids.extend(steps)  # a deque of max_keep_ckpts places
        runner.message_hub.update_info('keep_ckpt_ids', steps)

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
            self._failed = True
            return False
        finally:
            self.tried_at = time.monotonic()
        self.last_ckpt, self.last_saved, self._failed = path, (meta['epoch'], meta['iter']), False
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
                remove(path)
            else:
                runner.logger.warning(f"'{path}' was the best checkpoint; it is not in the work dir and stays")
        outdated.clear()


def _best_of(state: dict) -> dict:
    """What a state says of the best checkpoint."""
    return {key: value for key, value in state.items() if key.startswith('best_')}


def checkpoint_hook(runner: Runner) -> AtomicCheckpointHook | None:
    """The hook of a run that can save at any time, if it has one."""
    return next((hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)), None)
