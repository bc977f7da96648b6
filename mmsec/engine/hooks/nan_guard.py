"""A run whose numbers go bad stops before a weight is spoiled."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmsec import compat
from mmsec.engine.hooks.atomic_checkpoint import checkpoint_hook
from mmsec.engine.unwrap import unwrapped
from mmsec.errors import InputError
from mmsec.registry import HOOKS


@HOOKS.register_module()
class NaNGuardHook(Hook):
    """Stop the run at the first loss or gradient that is NaN or infinite, before the optimizer's step.

    The error names the iteration, the losses and the images of the batch. Before it stops, the run saves what it was
    before the iteration, if it has an ``AtomicCheckpointHook``. All processes do the same at the same iteration.

    Losses and gradients are looked at together, so that the host waits for the device once an iteration. Under fp16 the
    gradient scaler skips the steps whose gradients overflow, and the check does not see those; it looks at the losses.

    Args:
        max_bad_batches (int): That many bad batches are left out, with their names in the log, before the run stops:
            weights, optimizer and buffers such as BatchNorm's statistics stay as they were. Under gradient accumulation
            the batches accumulated so far are left out with it. Default: 0.
    """

    priority = 'HIGH'  # weights and buffers are put right before they are averaged or saved

    def __init__(self, max_bad_batches: int = 0) -> None:
        if max_bad_batches < 0:
            raise ValueError(f'max_bad_batches must be at least 0, got {max_bad_batches}')
        self.max_bad_batches = max_bad_batches
        self._left_out = 0
        self._losses: dict[str, Any] = {}  # of this iteration, until they are checked
        self._files: list[str] = []
        self._buffers: list[Tensor] = []
        self._kept: list[Tensor] = []  # the buffers before this iteration

    def before_train(self, runner: Runner) -> None:
        """Watch the model's losses and the optimizer's step."""
        model = unwrapped(runner.model)
        self._buffers = list(model.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

        def keep_losses(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if not module.training or not isinstance(output, Mapping):
                return
            samples = kwargs.get('data_samples') or (args[1] if len(args) > 1 else None) or []
            self._files = [getattr(sample, 'img_path', '(no img_path)') for sample in samples]
            self._losses = {name: value for name, value in output.items() if 'loss' in name}  # others are not summed

        def check(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
            gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
            if getattr(optimizer, 'found_inf', None) is not None:
                gradients = []  # a fused optimizer under fp16 leaves the step out by itself
            self._check(runner, gradients)

        model.register_forward_hook(keep_losses, with_kwargs=True)
        runner.optim_wrapper.optimizer.register_step_pre_hook(check)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the buffers, which the forward pass changes."""
        _copy(self._buffers, self._kept)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look at the losses of an iteration without a step: skipped by the scaler, or one of several accumulated."""
        if self._losses:
            self._check(runner, [])

    def _check(self, runner: Runner, gradients: list[Tensor]) -> None:
        """Look at the losses since the last look and at gradients, once for all processes."""
        losses, self._losses = self._losses, {}
        values = [value.detach().flatten() for value in _tensors(losses)]
        device = next((tensor.device for tensor in [*gradients, *values]), torch.device('cpu'))
        zero = torch.zeros(1, device=device)  # stands for what is not there
        together = torch.cat([zero, *(value.to(device, non_blocking=True) for value in values)])
        norm = compat.total_norm(gradients) if gradients else zero
        here = torch.stack([together.isfinite().all(), norm.isfinite().all()]).logical_not().int()  # losses, gradients
        anywhere = here.clone()
        all_reduce(anywhere, 'max')
        if not anywhere.any():  # here the host waits
            return
        _copy(self._kept, self._buffers)
        what = 'loss' if anywhere[0] else 'gradient'
        place = ' of another process' if anywhere[0] and not here[0] else ''
        means = {name: sum(t.detach().mean().item() for t in _tensors({name: losses[name]})) for name in losses}
        shown = ', '.join(f'{name} {mean:g}' for name, mean in means.items())
        found = (
            f'iteration {runner.iter + 1}: a {what}{place} is not finite, no weight was changed. Losses: {shown}. '
            f'Images of this process: {", ".join(self._files)}'
        )
        if self._left_out < self.max_bad_batches:
            self._left_out += 1
            runner.optim_wrapper.optimizer.zero_grad()  # a step without gradients changes nothing
            # Of other processes than the first, only errors are logged.
            (runner.logger.warning if place else runner.logger.error)(
                f'{found}. This is bad batch {self._left_out} of {self.max_bad_batches} that may be left out'
            )
            return
        raise InputError(
            f'{found}. {_save(runner)}. Look at the images; if nothing is wrong, set max_bad_batches of '
            'mmsec.NaNGuardHook, lower the rate, lengthen the warm-up or clip gradients, and go on with --resume'
        )


def _save(runner: Runner) -> str:
    """Save what was before this iteration; say how to go on from it."""
    checkpoints = checkpoint_hook(runner)
    if checkpoints is None:
        return 'Nothing was saved, because the run has no mmsec.AtomicCheckpointHook'
    saved = checkpoints.save_now(runner, runner.epoch, runner.iter)
    barrier()  # the end of another process can end the first, which may still be writing
    return f'Iteration {runner.iter} is saved' if saved else 'The last save failed'


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    """Overwrite each tensor of ``target``."""
    for new, old in zip(source, target, strict=True):
        old.copy_(new)


def _tensors(losses: Mapping) -> list[Tensor]:
    """All tensors of a dict of losses, whose values may be lists."""
    return [t for value in losses.values() for t in (value if isinstance(value, list | tuple) else [value])]
