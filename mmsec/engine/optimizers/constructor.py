"""Few parameter groups: one for each setting, not one for each parameter."""

from typing import ClassVar

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mmsec import compat
from mmsec.errors import InputError
from mmsec.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, with all of its ``paramwise_cfg``, whose groups of equal settings are one group.

    ``norm_decay_mult`` also holds for norms that a custom key matches which says nothing of decay, such as
    ``custom_keys=dict(backbone=dict(lr_mult=0.1))``. MMEngine would decay these.

    MMEngine makes a group of each parameter as soon as there is a ``paramwise_cfg``. An optimizer starts its kernels
    for each group anew, so a step of a thousand groups takes thousands of launches where two groups take a few.

    MMEngine passes over options of ``paramwise_cfg`` that it does not know. Here they are refused.

    Attributes:
        options (tuple[str, ...]): Those of ``paramwise_cfg``.
    """

    optimizer_cfg: dict
    options: ClassVar[tuple[str, ...]] = (
        'bias_decay_mult',
        'bias_lr_mult',
        'bypass_duplicate',
        'custom_keys',
        'dcn_offset_lr_mult',
        'dwconv_decay_mult',
        'flat_decay_mult',
        'norm_decay_mult',
    )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper; ``fused=True`` is left out where this torch has it on GPUs alone."""
        if not (compat.FUSED_ON_CPU or torch.cuda.is_available()):
            self.optimizer_cfg = {name: value for name, value in self.optimizer_cfg.items() if name != 'fused'}
        return super().__call__(model)

    def _validate_cfg(self) -> None:
        """Refuse options that are unknown."""
        super()._validate_cfg()
        unknown = sorted(set(self.paramwise_cfg) - set(self.options))
        if unknown:
            raise InputError(
                f'optim_wrapper.paramwise_cfg has no option {", ".join(unknown)} under mmsec.{type(self).__name__}; it '
                f'has {", ".join(self.options)}.{" Layers are counted, not given." * ("num_layers" in unknown)}'
            )

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: int | float | None = None
    ) -> None:
        """Add the groups of ``module`` and its children to ``params``; see MMEngine for the arguments."""
        first = len(params)
        super().add_params(params, module, prefix, is_dcn_module)
        norm_decay = self.paramwise_cfg.get('norm_decay_mult')
        if norm_decay is not None and isinstance(module, _BatchNorm | _InstanceNorm | nn.GroupNorm | nn.LayerNorm):
            for group in params[first:]:
                if 'decay_mult' not in group:
                    group['weight_decay'] = self.base_wd * norm_decay
        if not prefix:  # MMEngine calls this for each child, too; this is the call for the whole model
            # A group that says nothing of rate or decay has the optimizer's. The factors they were made by are notes.
            own = {'lr': self.base_lr, 'weight_decay': self.base_wd}
            own = {name: value for name, value in own.items() if value is not None}
            notes = ('lr_mult', 'decay_mult')
            settings = [{name: value for name, value in group.items() if name not in notes} for group in params]
            params[:] = merge_groups(self.adjusted([own | group for group in settings], module))

    def adjusted(self, groups: list[dict], model: nn.Module) -> list[dict]:
        """What a subclass makes of the groups, one for each parameter that learns, before equal ones are merged."""
        return groups


def merge_groups(groups: list[dict]) -> list[dict]:
    """Make one group of those whose settings are equal, settings and parameters in the order in which they came.

    Raises:
        InputError: If a parameter is there twice; an optimizer would step it twice.
    """
    merged: list[dict] = []
    seen: set[nn.Parameter] = set()
    for group in groups:
        settings = {key: value for key, value in group.items() if key != 'params'}
        twice = seen.intersection(group['params'])
        if twice:
            shapes = ', '.join(str(tuple(parameter.shape)) for parameter in twice)
            raise InputError(
                f'the model has a parameter of shape {shapes} in two places, and the optimizer would step it twice. '
                'Set optim_wrapper.paramwise_cfg.bypass_duplicate=True to take the first place only'
            )
        seen.update(group['params'])
        for other in merged:
            if other.keys() - {'params'} == settings.keys() and all(other[key] == settings[key] for key in settings):
                other['params'].extend(group['params'])
                break
        else:
            merged.append({'params': list(group['params']), **settings})
    return merged
