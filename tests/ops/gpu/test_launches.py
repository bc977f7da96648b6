"""How much SecViT launches on a GPU with all kernels on, counted without one: what decides the time of small batches.

Counted are calls of aten operators that compute something and starts of Triton kernels, in bfloat16 under autocast, of
tensors without values on a CPU; no loss and no optimizer. Autocast on CUDA casts 4 (inference) and 12 (training) times
more, around norms between stages. Some calls are more than one kernel of the device, which only a profile shows: cuDNN
adds the bias of a convolution by a kernel of its own, and a gradient of a convolution, of a norm or of attention is two
or three; a sort of more than 4096 keys is about 23 (stages 1 and 2 at 800x1344). docs/performance.md has the numbers.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip('triton', reason='Triton is not installed')

from mmsec import ops
from mmsec.models import SecViT
from mmsec.ops.kernels.gpu import launch

SIZES = dict(embed_dims=(64, 128, 256, 512), num_heads=(2, 4, 8, 16), mlp_ratio=3)
DEPTHS = (1, 1, 1, 1)


class Launches(TorchDispatchMode):
    """Counts operators that start a kernel: they give or change a tensor, and are no view and no allocation."""

    kernels = ops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        gives = func._schema.is_mutable or any('Tensor' in str(result.type) for result in func._schema.returns)
        if gives and not func.is_view and not name.startswith(('empty', 'new_empty', '_unsafe_view')):
            self.ops += 1
        return func(*args, **(kwargs or {}))

    def start(self, *args, **options) -> None:
        self.kernels += 1


@pytest.fixture
def count(monkeypatch):
    """What a SecViT launches for 2 images of 800x1344, forward and backward."""

    def counted(train: bool, **settings) -> tuple[int, int]:
        launches = Launches()
        monkeypatch.setattr(launch, 'launch', launches.start)
        with torch.device('meta'):
            model = SecViT(**settings).train(train)
        with FakeTensorMode(allow_non_fake_inputs=True), ops.use_kernels('on'), torch.set_grad_enabled(train):
            model, image = model.to_empty(device='cpu'), torch.empty(2, 3, 800, 1344)
            with launches, torch.autocast('cpu', torch.bfloat16):
                maps = model(image)
            forward = launches.ops + launches.kernels
            assert launches.kernels
            if train:
                grads = [torch.empty_like(each) for each in maps]
                with launches:
                    torch.autograd.backward(maps, grads)
            return forward, launches.ops + launches.kernels - forward

    return counted


@pytest.mark.parametrize(('train', 'layer_scale', 'most'), [(False, False, 16), (True, False, 42), (True, True, 44)])
def test_a_block(count, train, layer_scale, most):
    def of(depths: tuple[int, ...]) -> int:
        arch = SIZES | dict(depths=depths, layer_scale=(layer_scale,) * 4)
        return sum(count(train, arch=arch, cluster_size=98, drop_path_rate=0.0))

    less = of(DEPTHS)
    more = [of(tuple(depth + (stage == i) for i, depth in enumerate(DEPTHS))) for stage in range(4)]
    assert max(each - less for each in more) <= most, more


@pytest.mark.parametrize(('train', 'most'), [(False, 560), (True, 1480)])
def test_secvit_s(count, train, most):
    assert sum(count(train, arch='small', cluster_size=98)) <= most
