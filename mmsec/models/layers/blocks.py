"""Blocks with and without activation checkpointing."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmsec import ops


def forward_block(block: nn.Module, *inputs: Any, with_cp: bool) -> Any:
    """``block(*inputs)``; ``with_cp`` recomputes it in the backward pass instead of keeping its activations."""
    if with_cp and torch.is_grad_enabled():
        return checkpoint(ops.call, block, *inputs, use_reentrant=False)
    return ops.call(block, *inputs)
