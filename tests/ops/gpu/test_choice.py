"""Triton kernels in a whole backbone: each is chosen where it should be, and results are those of plain torch."""

import sys

import pytest
import torch
from torch import nn

from mmsec import ops
from mmsec.models import SecViT
from mmsec.ops.kernels import table
from mmsec.ops.kernels import triton as kernels

pytest.importorskip('triton', reason='Triton is not installed')

ARCH = dict(embed_dims=(32,), depths=(1,), num_heads=(2,), mlp_ratio=1, layer_scale=(True,))
CHOSEN = {
    'call': 'weights cast together',
    'conv_residual_norm': 'Triton depthwise and LayerNorm',
    'residual_norm': 'Triton residual and LayerNorm',
    'residual': 'Triton residual',
    'gelu_conv_residual': 'Triton GELU and depthwise',
    'lepe_attention': 'Triton attention',
    'token_scores': 'Triton scores',
    'argsort': 'Triton sort',
}

QKV = 'Triton attention of qkv'


def backbone(depth: int = 1, **options) -> SecViT:
    """A block or several; the last one has drop path if it is not the first. Weights are large enough to matter."""
    torch.manual_seed(0)
    model = SecViT(
        ARCH | dict(depths=(depth,)), **{'num_clusters': (5,), 'out_indices': (0,), 'drop_path_rate': 0.3} | options
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def results(model: SecViT, kernels: str, image: torch.Tensor) -> list[torch.Tensor]:
    """Maps and the gradients of image and parameters."""
    torch.manual_seed(1)  # drop path and random groupings
    image = image.clone().requires_grad_()
    with ops.use_kernels(kernels):
        maps = model(image)
        loss = sum((m * torch.linspace(-1, 1, m.numel()).view_as(m)).sum() for m in maps)
        learnt = [p for p in model.parameters() if p.requires_grad]
        return [*maps, *torch.autograd.grad(loss, [image, *learnt])]


def test_every_kernel_is_chosen_where_it_should_be():
    model, image = backbone(depth=2).train(), torch.randn(2, 3, 9, 14)
    with ops.use_kernels('on'), torch.autocast('cpu', torch.float16):  # the interpreter has no bfloat16 products
        explained = ops.explain(model, image)
    for op, kernel in CHOSEN.items():
        answers = [said for name, said in explained[op].items() if name.split(',')[0] == kernel]
        assert 'chosen' in answers, (op, explained[op])
        assert op == 'call' or set(answers) == {'chosen'}, (op, explained[op])  # the stem has no linear layer
    assert ops.explain(model, image)['residual'][CHOSEN['residual']].startswith('not measured to be faster')
    with ops.use_kernels('on'):
        blocks = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1, groups=16)])
        x = torch.randn(1, 4, 5, 16)
        assert ops.explain(ops.conv_residual, x, blocks[0], x)['conv_residual']['Triton depthwise'] == 'chosen'


@pytest.mark.parametrize(
    ('options', 'size', 'frozen'),
    [
        (dict(with_cp=True, depth=2), (10, 13), ()),
        (dict(grouping=dict(type='WindowGrouping'), num_clusters=None, cluster_size=5, frozen_stages=0), (9, 18), ()),
        (dict(grouping=dict(type='RandomGrouping')), (6, 13), ('dwconv', 'lepe', 'norm1')),
        (dict(num_clusters=(1,)), (1, 1), ()),
    ],
    ids=str,
)
def test_maps_and_gradients_are_those_of_plain_torch(options, size, frozen):
    model, image = backbone(**options).train(), torch.randn(2, 3, *size)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and not any(part in name for part in frozen))
    ours, wanted = (results(model, kernels, image) for kernels in ('on', 'off'))
    largest = max(each.norm() for each in wanted)  # norms of gradients that are 0 by design are compared with it
    for a, b in zip(ours, wanted, strict=True):
        assert (a - b).norm() <= 2e-5 * b.norm() + 1e-6 * largest


def test_half_precision_is_as_near_to_float64_as_plain_torch():
    model = backbone(grouping=dict(type='WindowGrouping'), drop_path_rate=0.0).eval()  # rounding moves no token
    image = torch.randn(2, 3, 10, 14)
    with torch.no_grad():
        exact = model.double()(image.double())
        model.float()
        with torch.autocast('cpu', torch.float16):
            plain = model(image)
            with ops.use_kernels('on'):
                ours = model(image)
    for a, b, truth in zip(ours, plain, exact, strict=True):
        assert (a - truth).norm() <= 2 * (b - truth).norm()


@pytest.mark.parametrize(
    ('tensor', 'reason'),
    [
        (torch.zeros(1, 4, 4, 16, dtype=torch.float64), 'not for torch.float64'),
        (torch.zeros(1, 4, 4, 32)[..., ::2], 'channels'),
    ],
)
def test_what_kernels_cannot_take_is_said(tensor, reason):
    conv = nn.Conv2d(16, 16, 3, padding=1, groups=16).to(tensor.dtype)
    with ops.use_kernels('on'):
        said = ops.explain(ops.conv_residual, tensor, conv, tensor)['conv_residual']['Triton depthwise']
    assert reason in said


def test_a_switch_and_a_table_decide(monkeypatch):
    assert table.why_not('depthwise') == 'not measured to be faster on none; MMSEC_KERNELS=on turns all kernels on'
    monkeypatch.setattr(table, '_measured', lambda: {'kernels': ['depthwise'], 'tiles': {'a': {'C64': {'BW': 4}}}})
    assert table.why_not('depthwise') is None
    assert table.why_not('sort') is not None
    assert table.tile('a', 'C64') == {'BW': 4}
    assert table.tile('a', 'C128') is None
    with ops.use_kernels('off'):
        assert table.why_not('depthwise') == 'kernels are off (MMSEC_KERNELS or use_kernels)'
    with ops.use_kernels('on'):
        assert table.why_not('sort') is None
    with pytest.raises(ValueError, match="mode must be 'on', 'off' or 'measured', got 'yes'"), ops.use_kernels('yes'):
        pass


@pytest.mark.parametrize(('num_tokens', 'num_clusters'), [(30, 4), (130, 1)])
def test_attention_of_qkv_alone(num_tokens, num_clusters):
    """As Swin in clusters calls it; a ViT has protected tokens."""
    qkv = torch.randn(2, num_tokens, 3, 2, 16, requires_grad=True)
    grouping = ops.Grouping(torch.rand(2, 2, num_tokens).argsort(-1), num_clusters)
    weights = torch.randn(2, num_tokens, 2, 16)
    results = []
    for mode in ('on', 'off'):
        with ops.use_kernels(mode):
            out = ops.qkv_attention(qkv, grouping)
        results.append([out, *torch.autograd.grad((out * weights).sum(), qkv)])
    torch.testing.assert_close(results[0], results[1])
    with ops.use_kernels('on'):
        assert ops.explain(ops.qkv_attention, qkv, grouping)['qkv_attention'][QKV] == 'chosen'
        protected = torch.cat([qkv[:, :1], qkv], dim=1)
        said = ops.explain(ops.qkv_attention, protected, grouping, 1)['qkv_attention'][QKV]
    assert said == 'protected tokens attend to all tokens, and all to them'


def test_without_triton_plain_torch_runs_and_a_warning_says_so_once(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)  # as if it were not installed
    kernels._missing.cache_clear()
    x, conv = torch.randn(1, 4, 5, 16), nn.Conv2d(16, 16, 3, padding=1, groups=16)
    with ops.use_kernels('on'):
        with pytest.warns(UserWarning, match='GPU kernels are left out, plain torch takes their place') as caught:
            results = [ops.conv_residual(x, conv, x) for _ in range(2)]
        assert len(caught) == 1
        assert torch.equal(*results)
        said = ops.explain(ops.conv_residual, x, conv, x)['conv_residual']['Triton depthwise']
    assert said.startswith('Triton is missing')
    kernels._missing.cache_clear()


def test_kernels_stay_out_of_graphs():
    model, image = backbone(drop_path_rate=0.0).eval(), torch.randn(1, 3, 9, 14)
    with torch.no_grad():
        expected = model(image)
        with ops.use_kernels('on'):
            torch._dynamo.reset()
            compiled = torch.compile(model, backend='eager', fullgraph=True)
            exported = torch.export.export(model, (image,), strict=False).module()
            for graph in (compiled, exported):
                for ours, wanted in zip(graph(image), expected, strict=True):
                    assert torch.equal(ours, wanted)


def test_gradients_of_weights_that_are_cast_together_reach_ddp(tmp_path):
    """DistributedDataParallel waits for the gradient of each parameter by a hook on it."""

    def step():  # what refers to the group is gone behind it: torch can hang if the group ends with its last model
        model, image = backbone(drop_path_rate=0.0).eval(), torch.randn(1, 3, 9, 14)
        wrapped = nn.parallel.DistributedDataParallel(model)
        with ops.use_kernels('on'), torch.autocast('cpu', torch.float16):
            sum(m.float().sum() for m in wrapped(image)).backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())

    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        step()
    finally:
        torch.distributed.destroy_process_group()
