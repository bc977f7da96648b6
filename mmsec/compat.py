"""What differs between versions of torch, from 2.1 on, and nowhere else. It needs torch alone."""

import functools
import importlib
import os
import pickle
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar('Function', bound=Callable[..., Any])

TORCH = tuple(int(part) for part in torch.__version__.split('+')[0].split('.')[:2])
if TORCH < (2, 1):
    raise ImportError(f'mmsec needs torch 2.1 or newer; this is torch {torch.__version__}')
# What a feature needs, as far as it was run.
NEEDED = {'torch.compile': (2, 7), 'ONNX export': (2, 7), 'GPU kernels': (2, 7)}
NEEDED |= {'counting FLOPs': (2, 4), 'a trace of this model': (2, 4)}
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


def custom_op(name: str, by_values: bool = False) -> Callable[[Function], Any]:
    """Make a function that changes no argument one operator for torch.compile; see torch.library.custom_op.

    With ``by_values`` its steps depend on numbers of the image. A torch without such operators then refuses a trace,
    which would keep the steps of one image.
    """
    if OPERATORS:
        return torch.library.custom_op(name, mutates_args=())

    def plain(function: Function) -> Any:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            if by_values and torch.jit.is_tracing():
                raise ValueError(f'{why_not("a trace of this model")}, which would keep what one image was given')
            return function(*args)

        call.register_fake = lambda fake: fake  # type: ignore[attr-defined]
        call.register_autograd = lambda backward, setup_context: None  # type: ignore[attr-defined]
        return call

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


def load_data(path: str | Path, stand_ins: Mapping[str, Callable], mmap: bool = False) -> Any:
    """``torch.load`` of tensors, plain values, and what has a stand-in by its dotted name: no code of the file runs.

    Below torch 2.6 its option ``weights_only`` can be evaded (CVE-2025-32434). There pickle itself reads, and finds
    nothing but what newer versions allow; it reads tensors also where ``mmap`` would leave them on the disk.

    Raises:
        Exception: As ``torch.load`` does, of many kinds; ``pickle.UnpicklingError`` with 'GLOBAL NAME' for a class.
    """
    if TORCH >= (2, 6):
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]):
            return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    if tarfile.is_tarfile(path):
        raise ValueError('files of torch 0.1 are not read on this torch')
    if zipfile.is_zipfile(path) and 'constants.pkl' in {Path(name).name for name in zipfile.ZipFile(path).namelist()}:
        raise ValueError('it is a TorchScript archive')
    newer = {'_codecs.encode': _latin1, 'builtins.set': set, 'collections.Counter': Counter}
    known = torch._weights_only_unpickler._get_allowed_globals() | newer | stand_ins

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            place = f'{ {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module) }.{name}'  # of Python 2
            if place not in known:
                raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {place}')
            return known[place]

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    reader = SimpleNamespace(__name__='pickle', Unpickler=Unpickler, load=load)
    forced = os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)  # which takes no other reader
    try:
        return torch.load(path, map_location='cpu', pickle_module=reader)
    finally:
        if forced is not None:
            os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = forced


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as pickle writes them in its older protocols; no other encoding is looked up."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'it holds text to be encoded as {encoding!r}')
    return text.encode('latin1')


def total_norm(tensors: list[Tensor]) -> Tensor:
    """The norm of all tensors together, a scalar; those of one device and type are taken together."""
    if hasattr(torch.nn.utils, 'get_total_norm'):
        return torch.nn.utils.get_total_norm(tensors)
    device = tensors[0].device
    return torch.stack([torch.linalg.vector_norm(tensor).to(device) for tensor in tensors]).norm()
