"""The model inside a runner's wrappers."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without its wrapper for several processes."""
    return model.get_submodule('module') if is_model_wrapper(model) else model
