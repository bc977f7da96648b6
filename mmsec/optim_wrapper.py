"""bfloat16 training on any device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import autocast
from torch import nn

from mmsec.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Forward pass under bfloat16 autocast, without loss scaling, which bfloat16's range makes needless.

    MMEngine's ``AmpOptimWrapper`` scales the loss for bfloat16 too, and refuses the CPU. Takes the arguments of
    :class:`mmengine.optim.OptimWrapper`.
    """

    cast_dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast for the forward pass of ``model``."""
        with super().optim_context(model), autocast(dtype=self.cast_dtype):
            yield
