"""Backbones are plain PyTorch: hooks, adapters, quantisation and counters work on them as on any model."""

import copy

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from mmsec import compat, ops
from mmsec.cli.flops import count_kinds
from mmsec.models import SecViT
from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.models.layers.secvit import Block
from mmsec.registry import MODELS
from tests.conftest import SMALL_ARCH
from tests.models.backbones.small import SMALL

ONE_BLOCK = dict(embed_dims=(16,), depths=(1,), num_heads=(2,), mlp_ratio=1, layer_scale=(True,))


def backbone(arch: dict = SMALL_ARCH, **options) -> SecViT:
    torch.manual_seed(0)
    return SecViT(arch, drop_path_rate=0.0, **options).eval()


def one_block() -> SecViT:
    """The smallest backbone: kernels take long in the interpreter."""
    return backbone(ONE_BLOCK, num_clusters=(3,), out_indices=(0,))


@pytest.fixture(params=['measured', 'on'])
def kernels(request):
    """The default, and every kernel that can run here, Triton's in its interpreter."""
    with ops.use_kernels(request.param):
        yield request.param


class Recorder:
    """Keeps what layers return, with a copy of it as it was then."""

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor]] = []

    def hook(self, module: nn.Module, inputs: tuple, output: object) -> None:
        for each in output if isinstance(output, tuple) else (output,):
            if isinstance(each, Tensor):
                self.kept.append((each, each.clone()))

    def check(self) -> None:
        assert self.kept
        assert all(torch.equal(kept, then) for kept, then in self.kept)


class Wrapper(nn.Module):
    """Takes the place of a layer, as an adapter does, and keeps what it returned."""

    def __init__(self, layer: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.layer, self.factor, self.recorder = layer, factor, Recorder()

    def forward(self, *inputs):
        out = self.factor * self.layer(*inputs) if self.factor != 1 else self.layer(*inputs)
        self.recorder.hook(self, inputs, out)
        return out


@pytest.mark.usefixtures('kernels')
@pytest.mark.parametrize('where', ['global', 'each'])
@torch.no_grad()
def test_what_a_hook_keeps_is_never_overwritten(where):
    model, images, recorder = one_block(), torch.randn(1, 3, 16, 20), Recorder()
    expected = model(images)
    seen: set[str] = set()
    hooked = [torch_module.register_module_forward_hook] if where == 'global' else []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: seen.add(name))
        if where == 'each':
            hooked.append(module.register_forward_hook)
    handles = [register(recorder.hook) for register in hooked]
    torch.testing.assert_close(model(images), expected)
    for handle in handles:
        handle.remove()
    recorder.check()
    containers = (nn.ModuleList, nn.ModuleDict)
    assert seen == {name for name, module in model.named_modules() if not isinstance(module, containers)}


@torch.no_grad()
def test_any_layer_can_be_wrapped_and_what_the_wrapper_keeps_stays(kernels):
    block = Block(16, 2, 1, 0.1, True, dict(type='SemanticGrouping'), 0, ClusterCount(2)).eval()
    block.scale1.gamma.fill_(0.5)
    block.scale2.gamma.fill_(0.5)
    x, rotary = torch.randn(1, 2, 3, 16), ops.rotary_table(2, 3, 8, torch.float32, torch.device('cpu'))
    expected = block(x, rotary)
    names = [name for name, module in block.named_modules() if name and not name.endswith('grouping')]
    read = ['attn.lepe', 'pos', 'ffn.dwconv', 'norm2', 'scale1', 'drop_path']  # by kernels, unless they are wrapped
    assert {'attn', 'attn.qkv', 'ffn.fc1', *read} < set(names)
    for name in names if kernels == 'measured' else read:
        wrapped = copy.deepcopy(block)
        *path, last = name.split('.')
        parent = wrapped.get_submodule('.'.join(path))
        wrapper = Wrapper(getattr(parent, last))
        setattr(parent, last, wrapper)
        torch.testing.assert_close(wrapped(x, rotary), expected)
        wrapper.recorder.check()
        wrapper.factor = 2.0
        assert not torch.equal(wrapped(x, rotary), expected), name


def test_every_layer_with_weights_is_one_of_torch_itself():
    kinds = {type(m) for m in SecViT(SMALL_ARCH).modules() if list(m.parameters(recurse=False))}
    assert {kind.__name__ for kind in kinds if kind.__module__.split('.')[0] != 'torch'} == {'LayerScale'}


def test_dynamic_quantisation_converts_every_linear_layer():
    model = backbone(grouping=dict(type='WindowGrouping'))  # which rounding does not change
    images = torch.randn(1, 3, 40, 50)
    layers = sum(type(m) is nn.Linear for m in model.modules())
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    kinds = [type(m) for m in quantized.modules()]
    assert layers == 4 * sum(SMALL_ARCH['depths'])
    assert sum(kind.__module__.startswith('torch.ao.nn.quantized.dynamic') for kind in kinds) == layers
    with torch.no_grad():
        maps = quantized(images), model(images)
    for ours, wanted in zip(*maps, strict=True):
        assert (ours - wanted).norm() < 0.3 * wanted.norm()


@pytest.mark.skipif(compat.why_not('counting FLOPs') is not None, reason='FLOPs are not counted on this torch')
def test_counters_that_look_at_layers_see_all_of_them():
    """That of mmengine traces a graph; thop, ptflops and others hook layers by their exact type."""
    model, images = backbone(num_clusters=(1, 1, 1, 1)), torch.randn(1, 3, 64, 64)
    wanted = count_kinds(model, lambda: model(images))['']['rest']  # from operators
    found = 0

    def count(module, inputs, output):
        nonlocal found
        tokens = output.numel() // (output.shape[1] if type(module) is nn.Conv2d else output.shape[-1])
        found += tokens * module.weight.numel()

    for module in model.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(images)
    assert found == wanted
    traced = get_model_complexity_info(backbone(num_clusters=(1, 1, 1, 1)), inputs=images, show_arch=False)
    assert traced['flops'] >= wanted


class LowRank(nn.Module):
    """A linear layer with a low-rank adapter beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2, False), nn.Linear(2, base.out_features, False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.usefixtures('kernels')
def test_low_rank_adapters_are_put_in_by_exact_type_and_learn():
    model = one_block()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and not isinstance(module, LowRank):
                setattr(module, name, LowRank(child))
    sum(m.square().sum() for m in model(torch.randn(2, 3, 16, 20))).backward()
    adapters = [m for m in model.modules() if isinstance(m, LowRank)]
    assert len(adapters) == 4
    assert all(adapter.up.weight.grad.any() for adapter in adapters)


@pytest.mark.parametrize(('name', 'mode'), [*((name, 'measured') for name in SMALL), ('SecViT', 'on')])
def test_no_autograd_function_runs_where_no_gradient_is_wanted(name, mode, monkeypatch):
    model = MODELS.build(SMALL[name].config()).eval()

    def refuse(cls, *args, **kwargs):
        raise AssertionError(f'{cls.__name__} ran')

    monkeypatch.setattr(torch.autograd.Function, 'apply', classmethod(refuse))
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16), ops.use_kernels(mode):
        model(torch.randn(1, 3, 16, 20))
    with pytest.raises(AssertionError, match='ran'):  # and it would be noticed
        sum(m.sum() for m in SecViT(SMALL_ARCH)(torch.randn(1, 3, 40, 50)))
