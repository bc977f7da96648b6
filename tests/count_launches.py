"""Count what SecViT would launch on a GPU, without one: `python -m tests.count_launches --help`.

Counted are the calls of aten operators that compute something on the device, and the starts of Triton kernels, all of
which pass through `mmsec.ops.kernels.gpu.launch.launch`. Views, allocations and questions about a tensor launch
nothing. A call counts as one, though some are more than one kernel on the device: see tests/ops/gpu/test_launches.py.
"""

from tests import fake_cuda

fake_cuda.load()  # before torch

import argparse  # noqa: E402
import inspect  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from mmsec.models import SecViT  # noqa: E402
from mmsec.ops.kernels.gpu import launch as starts  # noqa: E402

ALLOCATIONS = ('empty', 'new_empty')  # what their names begin with


class Launches(TorchDispatchMode):
    """Counts calls of operators inside its context, and kernels wherever :meth:`launch` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[tuple[str, str]] = Counter()  # of ('op' or 'kernel', its name)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operator and count it."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        on_device = any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in tree_leaves((args, kwargs, out)))
        if on_device and computes(func):
            self.counted['op', name] += 1
        return _as_cudnn(out) if name in ('convolution', 'convolution_backward') else out

    def launch(self, kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, stages: int = 2) -> None:
        """In place of ``mmsec.ops.kernels.gpu.launch.launch``: count a kernel whose arguments fit."""
        inspect.signature(kernel.fn).bind(*args)
        module = kernel.fn.__module__.rpartition('.')[2]
        self.counted['kernel', f'{module}.{kernel.fn.__name__}'] += 1

    def take(self) -> Counter[tuple[str, str]]:
        """What was counted since the last call."""
        counted, self.counted = self.counted, Counter()
        return counted


def computes(func: Any) -> bool:
    """Whether an operator starts a kernel: it gives or changes a tensor, and is no view and no allocation."""
    name = func.overloadpacket.__name__
    if func.is_view or torch.Tag.inplace_view in func.tags or name.startswith(ALLOCATIONS) or name == '_unsafe_view':
        return False
    gives = any('Tensor' in str(result.type) for result in func._schema.returns)
    return gives or func._schema.is_mutable or name == '_local_scalar_dense'


def _as_cudnn(out: Any) -> Any:
    """Maps and their gradients channels last, as cuDNN returns them; the device that is not there forgets it."""
    if isinstance(out, tuple):
        return tuple(_as_cudnn(each) for each in out)
    is_map = out is not None and out.dim() == 4 and out.shape[1] > 1
    return out.contiguous(memory_format=torch.channels_last) if is_map else out


def _flash(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention by the operator that a GPU takes in half precision; without one, the choice is another."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _pretend(launches: Launches) -> None:
    """For the rest of this process: let the device look like one, and start no kernel."""
    if torch.version.cuda is None:
        torch.cuda.amp.common.amp_definitely_not_available = lambda: False
        torch.cuda.is_bf16_supported = lambda including_emulation=True: True
        torch.cuda.current_device = lambda: 0
    F.scaled_dot_product_attention = _flash
    start = starts.launch
    for module in list(sys.modules.values()):  # those that are imported later find it in the first of them
        if getattr(module, 'launch', None) is start:
            module.launch = launches.launch


def _moved(model: nn.Module) -> nn.Module:
    """A model with fake parameters and buffers on the device."""
    for module in model.modules():
        for name, each in list(module.named_parameters(recurse=False)):
            fake = torch.empty(each.shape, dtype=each.dtype, device='cuda')
            module._parameters[name] = nn.Parameter(fake, each.requires_grad)
        for name, each in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.empty(each.shape, dtype=each.dtype, device='cuda')
    return model


def count(launches: Launches, settings: Mapping[str, Any], size: Sequence[int], train: bool) -> dict[str, Any]:
    """Launches of a model in bfloat16 under autocast.

    Args:
        launches (Launches): What counts.
        settings (Mapping[str, Any]): Arguments of :class:`mmsec.models.SecViT`.
        size (Sequence[int]): (B, H, W) of the images.
        train (bool): Whether to train, with a backward pass, or to infer.

    Returns:
        dict[str, Any]: 'forward' and 'backward', the launches of each; 'by_op' and 'by_kernel', to each name those
        two numbers. Gradients of the maps are given, so that no loss is counted, and no optimizer runs.
    """
    model = SecViT(**settings).train(train)
    with FakeTensorMode():
        model = _moved(model)
        image = torch.empty(size[0], 3, *size[1:], device='cuda')
        with torch.set_grad_enabled(train), launches:
            with torch.autocast('cuda', torch.bfloat16):
                maps = model(image)
            forward = launches.take()
            if train:
                torch.autograd.backward(maps, [torch.empty_like(each) for each in maps])
            backward = launches.take()
    by = {
        f'by_{kind}': {
            name: (forward[kind, name], backward[kind, name]) for of, name in sorted(forward | backward) if of == kind
        }
        for kind in ('op', 'kernel')
    }
    return {'forward': forward.total(), 'backward': backward.total()} | by


def main() -> None:
    """Print a list with what each model counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='+', type=json.loads, help='arguments of SecViT, such as \'{"arch": "small"}\'')
    parser.add_argument('--size', nargs=3, type=int, default=(2, 800, 1344), metavar=('B', 'H', 'W'))
    parser.add_argument('--train', action='store_true')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    launches = Launches()
    _pretend(launches)
    print(json.dumps([count(launches, settings, args.size, args.train) for settings in args.models]))


if __name__ == '__main__':
    main()
    sys.stdout.flush()
    os._exit(0)  # threads of autograd for the device that is not there end badly
