"""What holds for every backbone that is registered. Small variants of them are in ``small.py``."""

import copy
import re

import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmsec.models.backbones.base import Backbone
from mmsec.models.checkpoints.loading import load_pretrained
from mmsec.models.inspection import token_clusters
from mmsec.registry import MODELS
from tests.models.backbones.small import SMALL, assert_close, autocast, build, outputs_and_gradients


def images(height: int = 64, width: int = 96, batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, 3, height, width, dtype=dtype)


def of_part(backbone: Backbone, count: int) -> set[str]:
    """Names of the parameters of the stem and of the first ``count - 1`` stages, each with its output norm."""
    modules = [module for part in backbone.parts()[:count] for module in part]
    modules += [norm for index, norm in backbone.out_norms.items() if int(index) < count - 1]
    inside = {id(p) for module in modules for p in module.parameters()}
    return {name for name, p in backbone.named_parameters() if id(p) in inside}


def test_every_registered_backbone_has_a_small_variant():
    classes = {name: each for name, each in MODELS.module_dict.items() if isinstance(each, type)}
    registered = {name for name, each in classes.items() if issubclass(each, Backbone)}
    missing = sorted(registered - {small.type for small in SMALL.values()})
    assert not missing, f'no contract is tried on {missing}: add a variant of each to tests/models/backbones/small.py'


@pytest.mark.parametrize('host', ['mmengine', 'mmdet', 'mmseg'])
def test_every_host_finds_it(small, host):
    registry = pytest.importorskip(f'{host}.registry').MODELS
    backbone = registry.build(small.config())
    assert type(backbone).__name__ == small.type
    assert isinstance(backbone, Backbone)


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 70), (37, 53), (31, 31), (112, 137), (333, 500)])
def test_any_size_gives_maps_at_its_strides(small, height, width):
    backbone = build(small, in_channels=5).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 5, height, width))
    assert len(maps) == len(backbone.strides)
    for m, channels, stride in zip(maps, small.channels, backbone.strides, strict=True):
        assert m.shape == (1, channels, -(-height // stride), -(-width // stride))
        assert m.is_contiguous()
        assert m.isfinite().all()


@pytest.mark.parametrize('size', [(64, 64), (37, 53)])
def test_a_batch_gives_what_its_images_give(small, size):
    backbone, x = build(small).double().eval(), images(*size, batch=3)
    with torch.no_grad():
        alone = [backbone(each[None]) for each in x]
        assert_close(backbone(x), [torch.cat(maps) for maps in zip(*alone, strict=True)])


def test_equal_inputs_give_equal_maps_and_gradients(small):
    backbone, x = build(small).float().eval(), images(60, 44, dtype=torch.float32)
    first, second = (outputs_and_gradients(backbone, x) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_parameter_receives_a_gradient_whatever_is_returned(small):
    stages = range(len(small.channels))
    for out_indices in (tuple(stages), *((i,) for i in stages)):
        backbone = build(small, out_indices=out_indices).train()
        x = images(batch=8, dtype=torch.float32)  # drop path leaves some of so many
        sum((m * torch.randn_like(m)).sum() for m in backbone(x)).backward()
        without = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == [], out_indices


def test_maps_come_in_the_order_of_out_indices(small, tmp_path):
    whole, x = build(small).double().eval(), images()
    torch.save({'state_dict': whole.state_dict()}, tmp_path / 'whole.pth')
    last = len(small.channels) - 1
    with torch.no_grad():
        maps = whole(x)
        for out_indices in ((last, 0), (0,), (last,)):
            some = build(small, out_indices=out_indices).double().eval()
            load_pretrained(some, tmp_path / 'whole.pth')  # the weights of what it does not return are left out
            assert_close(some(x), [maps[i] for i in out_indices])


def test_it_says_what_it_returns(small):
    last, x = len(small.channels) - 1, images(70, 90, dtype=torch.float32)
    for out_indices in (tuple(range(last + 1)), (last, 0), (last,)):
        backbone = build(small, out_indices=out_indices).eval()
        info, seen = backbone.feature_info, {}
        for name in info.module_name():
            backbone.get_submodule(name).register_forward_hook(
                lambda module, given, output, seen=seen: seen.__setitem__(module, output)
            )
        maps = backbone(x)
        assert len(info) == len(maps)
        assert backbone.out_channels == info.channels() == [each.shape[1] for each in maps]
        assert backbone.strides == info.reduction() == [each['reduction'] for each in info]
        for each, stride, name in zip(maps, backbone.strides, info.module_name(), strict=True):
            assert each.shape[2:] == (-(-70 // stride), -(-90 // stride))
            output = seen[backbone.get_submodule(name)]
            assert (output.map() if small.type == 'ViT' else output).numel() == each.numel()


def test_a_map_depends_on_the_parts_up_to_its_stage_and_each_parameter_is_in_one(small):
    backbone = build(small).eval()
    maps = backbone(images(dtype=torch.float32))
    names = dict(backbone.named_parameters())
    of_parts = [p for part in backbone.parts() for module in part for p in module.parameters()]
    of_parts += backbone.out_norms.parameters()
    assert sorted(map(id, of_parts)) == sorted(map(id, names.values()))
    for i, m in enumerate(maps):
        loss = (m * torch.randn_like(m)).sum()
        found = torch.autograd.grad(loss, list(names.values()), retain_graph=True, allow_unused=True)
        reached = {name for name, gradient in zip(names, found, strict=True) if gradient is not None}
        earlier_norms = {name for name in names if name.startswith(tuple(f'out_norms.{j}.' for j in range(i)))}
        assert reached == of_part(backbone, i + 2) - earlier_norms


def test_frozen_stages_stay_as_they_are_and_the_rest_learns(small):
    for frozen_stages in range(-1, len(small.channels) + 1):
        backbone = build(small, frozen_stages=frozen_stages)
        frozen = of_part(backbone, frozen_stages + 1)
        assert bool(frozen) == (frozen_stages >= 0)
        before = copy.deepcopy(backbone.state_dict())
        backbone.eval().train()
        maps = backbone(images(batch=8, dtype=torch.float32))
        if frozen_stages < len(small.channels):
            sum((m * torch.randn_like(m)).sum() for m in maps).backward()
        else:
            assert not any(m.requires_grad for m in maps)
        for name, p in backbone.named_parameters():
            assert (p.grad is not None) is p.requires_grad is (name not in frozen), name
        prefixes = {module: name for name, module in backbone.named_modules()}
        for i, part in enumerate(backbone.parts()):
            kept = i <= frozen_stages
            assert all(each.training is not kept for module in part for each in module.modules())
            for key, value in backbone.state_dict().items():  # buffers, too
                if kept and key.startswith(tuple(f'{prefixes[module]}.' for module in part)):
                    assert torch.equal(value, before[key])


def test_norm_eval_keeps_the_statistics_of_batch_norms(small):
    def statistics(backbone):
        return [norm.running_mean.clone() for norm in backbone.modules() if isinstance(norm, _BatchNorm)]

    if not statistics(build(small)):
        pytest.skip('it has no BatchNorm')
    for norm_eval in (True, False):
        backbone = build(small, norm_eval=norm_eval).train()
        before = statistics(backbone)
        backbone(images(dtype=torch.float32))
        kept = [torch.equal(*each) for each in zip(before, statistics(backbone), strict=True)]
        assert set(kept) == {norm_eval}


@pytest.mark.parametrize('frozen_stages', [-1, 1])
def test_checkpointing_keeps_less_and_gives_the_same_gradients(small, frozen_stages):
    x = images(50, 66)
    results, kept = [], []

    def keep(saved):
        kept[-1] += saved.numel()
        return saved

    for with_cp in (False, True):
        torch.manual_seed(1)
        backbone = build(small, with_cp=with_cp, frozen_stages=frozen_stages).double().train()
        torch.manual_seed(2)  # drop path
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            results.append(outputs_and_gradients(backbone, x))
    assert_close(*results)
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_noise_and_constant_images_give_numbers_at_every_precision(small, dtype):
    backbone = build(small).train(dtype == torch.float32)
    for x in (images(70, 90, dtype=torch.float32), torch.zeros(1, 3, 70, 90), torch.full((1, 3, 70, 90), 7.0)):
        with autocast(dtype):
            results = outputs_and_gradients(backbone, x)
        assert all(each.isfinite().all() for each in results)


_LESS = ('SecViT', 'SecViT with clusters of 20 tokens', 'ClusTR', 'ViT with PiToMe')  # what others are, and no more


@pytest.mark.parametrize('name', [name for name in SMALL if name not in _LESS])
def test_compiled_one_graph_serves_every_size_forward_and_backward(name):
    torch._dynamo.reset()
    small = SMALL[name]
    backbone = build(small).double().eval()
    compiled = torch.compile(backbone, backend='aot_eager', fullgraph=True, dynamic=small.one_graph)
    x = images(64, 96)
    assert_close(outputs_and_gradients(compiled, x), outputs_and_gradients(backbone, x))
    if not small.one_graph:
        return
    with torch.compiler.set_stance('fail_on_recompile'):
        for size in ((128, 96), (100, 132), (91, 157)):
            x = images(*size)
            assert_close(outputs_and_gradients(compiled, x), outputs_and_gradients(backbone, x))


@pytest.mark.parametrize('name', {small.type: name for name, small in reversed(SMALL.items())}.values())
def test_compiled_bfloat16_autocast_gives_the_same_maps(name):
    torch._dynamo.reset()
    small = SMALL[name]  # the first of each backbone: compiling is slow, and types do not depend on options
    backbone = build(small).eval()
    compiled = torch.compile(backbone, backend='eager', fullgraph=True, dynamic=True)
    x = images(64, 64, batch=1, dtype=torch.float32)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        for ours, wanted in zip(compiled(x), backbone(x), strict=True):
            assert ours.dtype == wanted.dtype
            assert (ours.float() - wanted.float()).norm() <= 0.1 * wanted.float().norm()


def test_an_unknown_option_is_named(small):
    with pytest.raises(TypeError, match='out_indexes'):
        build(small, out_indexes=(0,))


@pytest.mark.parametrize('shape', [(1, 3, 0, 32), (0, 3, 32, 32), (1, 4, 32, 32), (3, 32, 32)])
def test_images_that_cannot_be_used_are_named(small, shape):
    with pytest.raises(ValueError, match=rf'images of shape .*{re.escape(str(shape))}'):
        build(small)(torch.zeros(shape))


def test_a_value_that_cannot_be_used_is_named(small):
    last = len(small.channels) - 1
    for option, value, message in (
        ('in_channels', 0, 'in_channels must be at least 1, got 0'),
        ('out_indices', (0, 0), r'out_indices must name at least one stage, each once, got \(0, 0\)'),
        ('out_indices', (0, last + 1), rf'out_indices must be in \[0, {last}\], got \(0, {last + 1}\)'),
        ('out_indices', (-1,), rf'out_indices must be in \[0, {last}\], got \(-1,\)'),
        ('frozen_stages', last + 2, rf'frozen_stages must be in \[-1, {last + 1}\], got {last + 2}'),
        ('frozen_stages', -2, rf'frozen_stages must be in \[-1, {last + 1}\], got -2'),
    ):
        with pytest.raises(ValueError, match=message):
            build(small, **{option: value})


@pytest.mark.parametrize('block', [0, -1])
def test_one_can_look_at_the_clusters_of_each_stage(small, block):
    backbone, x = build(small).eval(), images(70, 90, dtype=torch.float32)
    stages = range(len(backbone.attention_layers()))
    found = token_clusters(backbone, x, reversed(stages), block)  # in the order that is asked for
    for stage, (ids, scores, score_name) in zip(reversed(stages), found, strict=True):
        assert torch.equal(ids, token_clusters(backbone, x, [stage], block)[0].ids)
        stride = backbone.stage_strides[stage]
        assert ids.shape == (2, ids.shape[1], -(-70 // stride), -(-90 // stride))
        assert ids.dtype == torch.int64
        for each in ids.flatten(2).flatten(0, 1):
            assert each.unique().tolist() == list(range(int(each.max()) + 1))  # counted from 0, none is empty
        assert bool(score_name) == (scores is not None)
        if scores is not None:
            assert scores.shape == ids.shape
            assert not scores.requires_grad
            order = scores.flatten(2).argsort(-1)
            sorted_ids, sorted_scores = (each.flatten(2).gather(-1, order) for each in (ids, scores))
            falls = sorted_ids.diff() < 0  # only where scores are equal may the order be another
            assert (sorted_scores.diff()[falls] == 0).all()


def test_looking_at_clusters_changes_nothing(small):
    backbone = build(small).train()
    next(backbone.children()).eval()  # as who freezes a part by hand
    before, modes = copy.deepcopy(backbone.state_dict()), [module.training for module in backbone.modules()]
    token_clusters(backbone, images(dtype=torch.float32), stages=[0])
    assert [module.training for module in backbone.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not any(module._forward_pre_hooks for module in backbone.modules())


def test_clusters_of_no_stage_or_block_are_refused(small):
    backbone, x = build(small), images(dtype=torch.float32)
    layers = backbone.attention_layers()
    with pytest.raises(ValueError, match=rf'stage must be in \[0, {len(layers) - 1}\], got {len(layers)}'):
        token_clusters(backbone, x, stages=[0, len(layers)])
    with pytest.raises(ValueError, match=f'stage 0 has {len(layers[0])} blocks, got block 99'):
        token_clusters(backbone, x, stages=[0], block=99)
