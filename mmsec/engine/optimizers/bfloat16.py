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

    MMEngine's ``AmpOptimWrapper`` scales the loss for bfloat16 too, and refuses the CPU. What heads return, and what
    RoI extractors are given, is float32: mmcv's NMS and RoIAlign have no bfloat16 kernels, and box coordinates in
    bfloat16 would be off by several pixels. Takes the arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    cast_dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast for the forward pass of ``model``."""
        handles = []
        # The hosts are not imported for this, so their heads and extractors are known by what they have.
        for module in model.modules():
            if hasattr(module, 'predict_by_feat'):
                handles.append(module.register_forward_hook(lambda _module, _args, output: _to_float32(output)))
            if hasattr(module, 'roi_layers'):
                handles.append(module.register_forward_pre_hook(lambda _module, args: _to_float32(args)))
        try:
            with super().optim_context(model), autocast(dtype=self.cast_dtype):
                yield
        finally:
            for handle in handles:
                handle.remove()


def _to_float32(value: Any) -> Any:
    """Cast the bfloat16 tensors in nested lists and tuples."""
    if isinstance(value, list | tuple):
        return type(value)(map(_to_float32, value))
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
