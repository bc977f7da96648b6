"""What differs between versions of torch, from 2.1 on, and nowhere else. It needs torch alone."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar('Function', bound=Callable[..., Any])

TORCH = tuple(int(part) for part in torch.__version__.split('+')[0].split('.')[:2])
if TORCH < (2, 1):
    raise ImportError(f'mmsec needs torch 2.1 or newer; this is torch {torch.__version__}')
# What a feature needs, as far as it was run.
NEEDED = {'torch.compile': (2, 7), 'ONNX export': (2, 7), 'GPU kernels': (2, 7), 'FLOPs of k-means and ClusTR': (2, 4)}
OPERATORS = TORCH >= (2, 4)  # torch.library.custom_op; without them the functions are plain Python
FUSED_ON_CPU = TORCH >= (2, 4)  # optimizers' option ``fused``
CUDNN_ATTENTION = hasattr(torch.backends.cuda, 'enable_cudnn_sdp')  # from 2.5 on

torch_attention = importlib.import_module('torch.nn.attention' if TORCH >= (2, 3) else 'torch.backends.cuda')
is_compiling: Callable[[], bool] = getattr(torch.compiler, 'is_compiling', None) or torch._dynamo.is_compiling
is_exporting: Callable[[], bool] = getattr(torch.compiler, 'is_exporting', None) or (lambda: False)


def why_not(feature: str) -> str | None:
    """Why this torch is too old for a feature of ``NEEDED``, in a sentence that says what to do, or None."""
    if NEEDED[feature] <= TORCH:
        return None
    return f'{feature} needs torch {".".join(map(str, NEEDED[feature]))} or newer; this is {torch.__version__}'


def custom_op(name: str) -> Callable[[Function], Any]:
    """Make a function that changes no argument one operator for torch.compile; see torch.library.custom_op."""
    if OPERATORS:
        return torch.library.custom_op(name, mutates_args=())

    def plain(function: Function) -> Function:
        function.register_fake = lambda fake: fake  # type: ignore[attr-defined]
        function.register_autograd = lambda backward, setup_context: None  # type: ignore[attr-defined]
        return function

    return plain


def flop_formula(name: str) -> Callable[[Function], Any]:
    """Count an operator of ours, such as ``kmeans_order``, in torch's FlopCounterMode."""
    if not OPERATORS:
        return lambda formula: formula
    from torch.utils.flop_counter import register_flop_formula

    return register_flop_formula(getattr(torch.ops.mmsec, name))


def autocast_dtype(device: str) -> torch.dtype | None:
    """The type that autocast computes in on devices of a type such as 'cuda'; None where autocast is off."""
    if OPERATORS:
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def float32_switch() -> tuple[str, Any]:
    """The attribute of ``torch.backends.cuda.matmul`` that TF32 hangs on, and its value for full float32.

    The newer of PyTorch's two switches may be used after either. The older one raises an error after the newer.
    """
    try:
        torch.backends.cuda.matmul.fp32_precision  # noqa: B018
    except (AttributeError, AssertionError):  # which old versions raise of an unknown name
        return 'allow_tf32', False
    return 'fp32_precision', 'ieee'


def has_amx() -> bool:
    """Whether the processor has Intel's AMX for bfloat16."""
    if hasattr(torch.cpu, '_is_amx_tile_supported'):
        return torch.cpu._is_amx_tile_supported()
    info = Path('/proc/cpuinfo')
    return info.is_file() and ' amx_tile' in info.read_text()


def total_norm(tensors: list[Tensor]) -> Tensor:
    """The norm of all tensors together, a scalar; those of one device and type are taken together."""
    if hasattr(torch.nn.utils, 'get_total_norm'):
        return torch.nn.utils.get_total_norm(tensors)
    device = tensors[0].device
    return torch.stack([torch.linalg.vector_norm(tensor).to(device) for tensor in tensors]).norm()
