"""bfloat16 training on any device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import autocast
from torch import Tensor, nn

from mmsec.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Forward pass under bfloat16 autocast, without loss scaling, which bfloat16's range makes needless.

    MMEngine's ``AmpOptimWrapper`` scales the loss for bfloat16 too, and refuses the CPU. RoI extractors work in
    float32: mmcv's RoIAlign has no bfloat16 kernel, and box coordinates in bfloat16 would be off by several pixels.
    Takes the arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    cast_dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast for the forward pass of ``model``."""
        # mmdet is not imported for this, so its extractors are known by what they have.
        extractors = [module for module in model.modules() if hasattr(module, 'roi_layers')]
        handles = [module.register_forward_pre_hook(_to_float32) for module in extractors]
        try:
            with super().optim_context(model), autocast(dtype=self.cast_dtype):
                yield
        finally:
            for handle in handles:
                handle.remove()


def _to_float32(module: nn.Module, args: tuple) -> tuple:
    """Cast the tensors among a module's positional arguments."""
    return tuple(_cast(arg) for arg in args)


def _cast(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    return type(value)(map(_cast, value)) if isinstance(value, list | tuple) else value
