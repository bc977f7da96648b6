"""The pass that makes a backbone faster on a CPU: same results, and all of it can be undone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmsec.models import SecViT
from mmsec.ops import explain
from mmsec.ops.kernels import cpu, processor
from tests.conftest import SMALL_ARCH
from tests.models.backbones.small import autocast


@pytest.fixture(params=['AuthenticAMD', 'GenuineIntel'])
def vendor(request, monkeypatch):
    monkeypatch.setattr(processor, 'VENDOR', request.param)
    monkeypatch.setattr(processor, 'AMX', False)
    monkeypatch.setattr(processor, 'BFLOAT16_PRODUCTS', True)
    return request.param


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_results_stay_and_the_pass_can_be_undone(vendor, dtype):
    model = SecViT(SMALL_ARCH, grouping=dict(type='WindowGrouping')).eval()  # which rounding does not change
    images = torch.randn(2, 3, 70, 90)
    names, modules = list(model.state_dict()), list(model.modules())
    with torch.no_grad(), autocast(dtype):
        expected = model(images)
        undo = cpu.optimize(model)
        assert list(model.state_dict()) == names
        replaced = sum(isinstance(m, cpu.ConvolutionLinear) for m in model.modules())
        assert replaced == (4 * sum(SMALL_ARCH['depths']) if vendor == 'AuthenticAMD' else 0)
        explained = explain(model, images)
        answers = [said for name, said in explained['attention'].items() if name.startswith('oneDNN products')]
        assert ('chosen' in answers) == (dtype == torch.bfloat16)
        tolerance = dict(atol=1e-5, rtol=1e-4) if dtype == torch.float32 else dict(atol=0.1, rtol=0.1)
        torch.testing.assert_close(model(images), expected, **tolerance)
        undo()
        assert list(model.modules()) == modules
        assert all(torch.equal(a, b) for a, b in zip(model(images), expected, strict=True))
        assert set(explain(model, images)['attention']) & {'oneDNN products'}


def test_a_backbone_with_the_pass_learns_the_same(vendor):
    model, images = SecViT(SMALL_ARCH, drop_path_rate=0.0).double().eval(), torch.randn(2, 3, 50, 60).double()

    def gradients():
        return torch.autograd.grad(sum(m.square().sum() for m in model(images)), list(model.parameters()))

    wanted = gradients()
    cpu.optimize(model)
    for ours, theirs in zip(gradients(), wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-9 * theirs.norm() + 1e-9


@pytest.mark.parametrize('fails', ['a hook', 'the backbone'])
def test_a_backbone_that_fails_leaves_nothing_switched_on(fails):
    model = nn.Sequential(nn.Linear(2, 2))
    if fails == 'a hook':
        model.register_forward_pre_hook(lambda *_: 1 / 0)
    cpu.optimize(model)
    with pytest.raises((ZeroDivisionError, RuntimeError)):
        model(torch.zeros(1, 3))
    q = torch.zeros(1, 1, 2, 8)
    assert 'was not called' in cpu.ATTENTION_IN_PRODUCTS.why_not(q, q, q)


def test_layers_that_are_looked_at_stay_as_they_are(vendor):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].register_forward_hook(lambda *_: None)
    cpu.optimize(model)
    assert type(model[0]) is nn.Linear


def test_freed_memory_is_kept_until_the_last_backbone_is_undone(monkeypatch):
    calls = []
    monkeypatch.setattr(cpu, '_OPTIMIZED', set())
    monkeypatch.setattr(cpu, '_keep_freed_memory', calls.append)
    undos = [cpu.optimize(nn.Identity()) for _ in range(2)]
    for undo in (*undos, *undos):  # once more does nothing
        undo()
    assert calls == [True, True, False]


@pytest.mark.parametrize(('count', 'length'), [(3, 1500), (400, 70), (2, 1)])
def test_products_in_pieces_are_attention(count, length):
    q, k, v = (torch.randn(count, 1, length, 16, dtype=torch.float64) for _ in range(3))
    torch.testing.assert_close(cpu.attention_in_products(q, k, v), F.scaled_dot_product_attention(q, k, v))
    bias = torch.randn(count, 1, 1, length, dtype=torch.float64)
    wanted = F.scaled_dot_product_attention(q, k, v, bias)
    torch.testing.assert_close(cpu.attention_in_products(q, k, v, bias), wanted)


def test_a_backbone_with_the_pass_can_be_compiled():
    model, images = SecViT(SMALL_ARCH, grouping=dict(type='WindowGrouping')).eval(), torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        expected = model(images)
        undo = cpu.optimize(model)
        torch._dynamo.reset()
        for ours, wanted in zip(torch.compile(model, backend='eager')(images), expected, strict=True):
            torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-4)
        undo()


def test_the_cpu_pass_is_undone_where_it_still_is(vendor):
    """Weights that came since stay, and so does what somebody else has put in the place of a layer."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    undo = cpu.optimize(model)
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}, assign=True)
    kept, wrapper = model[0].weight, nn.Sequential(model[1])
    model[1] = wrapper
    undo()
    assert type(model[0]) is nn.Linear
    assert model[0].weight is kept
    assert model[1] is wrapper
