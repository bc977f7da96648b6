"""A run whose numbers go bad stops before a weight is spoiled."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmsec.errors import InputError
from mmsec.registry import HOOKS


@HOOKS.register_module()
class FiniteHook(Hook):
    """Stop the run at the first loss or gradient that is NaN or infinite, before the optimizer's step.

    The error names the iteration, the losses and the images of the batch. Under fp16 the gradient scaler skips the
    steps whose gradients overflow, and the check does not see those; a loss is looked at before it is scaled.
    """

    def before_train(self, runner: Runner) -> None:
        """Watch the model's losses and the optimizer's step."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        files: list[str] = []
        losses: dict[str, Tensor] = {}

        def look_at_losses(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if not module.training or not isinstance(output, Mapping):
                return
            samples = kwargs.get('data_samples') or (args[1] if len(args) > 1 else None) or []
            files[:] = [getattr(sample, 'img_path', '(no img_path)') for sample in samples]
            losses.clear()
            losses.update({name: value for name, value in output.items() if 'loss' in name})  # others are not summed
            if any(not torch.isfinite(value).all() for value in _tensors(losses)):
                raise self._error('loss', runner, losses, files)

        def look_at_gradients(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
            if getattr(optimizer, 'found_inf', None) is not None:
                return  # a fused optimizer under fp16 leaves the step out by itself
            gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
            if not torch.nn.utils.get_total_norm(gradients).isfinite():
                raise self._error('gradient', runner, losses, files)

        model.register_forward_hook(look_at_losses, with_kwargs=True)
        runner.optim_wrapper.optimizer.register_step_pre_hook(look_at_gradients)

    @staticmethod
    def _error(what: str, runner: Runner, losses: Mapping, files: list[str]) -> InputError:
        means = {name: sum(t.detach().mean().item() for t in _tensors({name: losses[name]})) for name in losses}
        shown = ', '.join(f'{name} {mean:g}' for name, mean in means.items())
        return InputError(
            f'iteration {runner.iter + 1}: a {what} is not finite, no weight was changed. Losses: {shown}. '
            f'Images of this process: {", ".join(files)}. Look at them; if nothing is wrong, lower the learning rate, '
            'lengthen the warm-up or clip gradients, and go on with --resume auto'
        )


def _tensors(losses: Mapping) -> list[Tensor]:
    """All tensors of a dict of losses, whose values may be lists."""
    return [t for value in losses.values() for t in (value if isinstance(value, list | tuple) else [value])]
