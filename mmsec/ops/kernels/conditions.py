"""What several kernels ask before they take the place of plain torch."""

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from mmsec import compat

_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')


def makes_graph() -> bool:
    """Whether operations are recorded into a graph that is to serve any image size."""
    return compat.is_compiling() or torch.jit.is_tracing()


def why_plain() -> str | None:
    """Why only plain torch serves now, or None: something else than autograd records or transforms what is computed."""
    if compat.is_compiling():
        return 'not under torch.compile'
    if torch.jit.is_tracing():
        return 'not under torch.jit.trace'
    if torch.autograd.forward_ad._current_level >= 0:
        return 'not in forward-mode differentiation'
    return 'not under torch.func' if torch._C._are_functorch_transforms_active() else None


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd follows what is made of these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def why_call(layer: nn.Module, kind: type[nn.Module]) -> str | None:
    """Why a layer must be called, and its weights must not just be read, or None.

    Without any of these reasons ``nn.Module.__call__`` is no more than ``forward``, and ``forward`` is PyTorch's.

    Args:
        layer (nn.Module): The layer.
        kind (type): What it must be exactly, such as ``nn.Conv2d``.
    """
    if type(layer) is not kind:
        return f'{type(layer).__name__} stands in the place of {kind.__name__}'
    if 'forward' in vars(layer):
        return f'the forward of {kind.__name__} was replaced'
    hooked = any(getattr(layer, hooks) for hooks in _HOOKS)
    if hooked or any(getattr(torch_module, f'_global{hooks}') for hooks in _HOOKS):
        return f'a hook looks at {kind.__name__}'
    return None


def why_conv(layer: nn.Module, depthwise: bool = True) -> str | None:
    """Why a layer is more than a convolution by its weight, with a bias, or must be called, or None.

    Args:
        layer (nn.Module): The layer.
        depthwise (bool): Whether it must also be a depthwise convolution that keeps the size. Default: True.
    """
    if why := why_call(layer, nn.Conv2d):
        return why
    assert isinstance(layer, nn.Conv2d)
    size, stride, padding = layer.kernel_size, layer.stride, layer.padding
    square = all(isinstance(each, tuple) and each[0] == each[1] for each in (size, stride, padding))
    if not square or layer.dilation != (1, 1) or layer.padding_mode != 'zeros' or layer.bias is None:
        return f'not for {layer}'
    same = stride == (1, 1) and padding == (size[0] // 2,) * 2 and size[0] % 2 == 1
    if depthwise and not (same and layer.in_channels == layer.out_channels == layer.groups):
        return f'not for {layer}: it is no depthwise convolution that keeps the size'
    return None
