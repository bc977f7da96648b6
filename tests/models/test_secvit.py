import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mmsec.models import SecViT
from mmsec.models.inspection import token_clusters
from mmsec.ops import cluster_attention
from tests import oracle
from tests.conftest import DATA, OFFICIAL, SMALL_ARCH


def small(**options) -> SecViT:
    return SecViT(arch=SMALL_ARCH, **options)


@pytest.mark.parametrize(
    ('arch', 'parameters'),
    [('tiny', 13_429_440), ('small', 25_223_744), ('base', 53_130_416), ('large', 94_811_664)],
)
def test_parameter_counts_are_the_published_ones(arch, parameters):
    with torch.device('meta'):
        backbone = SecViT(arch, out_norm=False)
    assert sum(p.numel() for p in backbone.parameters()) == parameters


@pytest.mark.parametrize('size', ['64x96', '128x160'])
def test_agrees_with_the_public_code(size):
    reference = np.load(DATA / 'secvit_official_tiny.npz')
    backbone = small(out_norm=False, init_cfg=dict(type='Pretrained', checkpoint=str(OFFICIAL)))
    backbone.init_weights()
    backbone.double().eval()
    images = torch.from_numpy(reference[f'input_{size}']).double().requires_grad_()
    maps = backbone(images)

    def relative_error(ours, name):
        wanted = torch.from_numpy(reference[name]).double()
        return ((ours - wanted).norm() / wanted.norm()).item()

    for i, ours in enumerate(maps, start=1):
        assert relative_error(ours, f'stage{i}_{size}') < 1e-6
    loss = sum((m * torch.linspace(-1, 1, m.numel(), dtype=m.dtype).view_as(m)).sum() for m in maps)
    loss.backward()
    assert relative_error(images.grad, f'input_grad_{size}') < 1e-6


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 70), (37, 53), (31, 31), (112, 137), (333, 500)])
@pytest.mark.parametrize('clustering', [{}, dict(cluster_size=98), dict(num_clusters=(3, 5, 7, 2))])
def test_any_size_gives_maps_at_strides_4_to_32(height, width, clustering):
    with torch.no_grad():
        maps = small(**clustering).eval()(torch.randn(1, 3, height, width))
    for i, m in enumerate(maps):
        stride = 4 * 2**i
        assert m.shape == (1, SMALL_ARCH['embed_dims'][i], -(-height // stride), -(-width // stride))
        assert m.is_contiguous()
        assert m.isfinite().all()


@pytest.mark.parametrize('size', [(64, 64), (37, 53)])
def test_a_batch_of_two_gives_what_two_images_give(size):
    backbone = small().double().eval()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        together = backbone(images)
        apart = [backbone(image[None]) for image in images]
    for i, m in enumerate(together):
        torch.testing.assert_close(m, torch.cat([one[i] for one in apart]))


def test_equal_inputs_give_equal_outputs():
    backbone = small().eval()
    images = torch.randn(1, 3, 60, 44)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(backbone(images), backbone(images), strict=True))


def test_clusters_are_counted_or_sized():
    counted = small().stages
    assert [stage.clusters_for(1000) for stage in counted] == [32, 8, 2, 1]
    assert counted[0].clusters_for(5) == 5
    sized = small(cluster_size=98).stages
    assert [sized[0].clusters_for(n) for n in (1, 98, 99, 196, 1000)] == [1, 1, 2, 2, 11]
    assert small(cluster_size=(10, 20, 30, 40)).stages[3].clusters_for(80) == 2


def test_the_number_of_clusters_changes_the_result():
    images = torch.randn(1, 3, 64, 64)
    one, other = small(num_clusters=(1, 1, 1, 1)), small(num_clusters=(16, 8, 2, 1))
    # Weights large enough for attention to matter.
    with torch.no_grad():
        for p in one.parameters():
            p.copy_(torch.randn_like(p) * 0.1)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert not torch.allclose(one.eval()(images)[0], other.eval()(images)[0], atol=1e-3)


def test_maps_come_in_the_order_of_out_indices():
    backbone = small(out_indices=(2, 0)).eval()
    images = torch.randn(1, 3, 64, 64)
    assert [m.shape[1] for m in backbone(images)] == [64, 16]
    assert len(backbone.stages) == 3
    assert sorted(backbone.out_norms) == ['0', '2']


def test_out_norm_normalises_each_map():
    m = small().eval()(torch.randn(1, 3, 64, 64))[1]
    torch.testing.assert_close(m.mean(1), torch.zeros_like(m.mean(1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(m.var(1, unbiased=False), torch.ones_like(m.mean(1)), atol=1e-2, rtol=0)


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large'])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1,), (0, 2)])
def test_every_parameter_receives_a_gradient(arch, out_indices):
    settings = SecViT.arch_zoo[arch]
    dims = tuple(8 * heads for heads in settings['num_heads'])
    backbone = SecViT(settings | dict(embed_dims=dims, depths=(1, 1, 2, 1)), out_indices=out_indices).train()
    sum((m * torch.randn_like(m)).sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    without = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    # A key's bias shifts all its scores alike before the rotation; it must have a gradient, however small.
    assert without == []


def test_norm_eval_keeps_batch_norm_statistics():
    backbone = small(norm_eval=True).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert backbone.stages[0].training
    before = [m.running_mean.clone() for m in norms]
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(m.running_mean, kept) for m, kept in zip(norms, before, strict=True))
    without = small().train()
    without(torch.randn(2, 3, 64, 64))
    assert without.patch_embed.proj[1].running_mean.any()


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3, 4])
def test_frozen_stages_stay_as_they_are_and_the_rest_learns(frozen_stages):
    backbone = small(frozen_stages=frozen_stages, drop_path_rate=0.5).train()

    def frozen(name):
        kind, _, rest = name.partition('.')
        index = int(rest[0]) if kind != 'patch_embed' else -1
        return frozen_stages > index + (kind == 'downsamples') and frozen_stages >= 0

    loss = sum((m * torch.randn_like(m)).sum() for m in backbone(torch.randn(2, 3, 64, 64)))
    if frozen_stages < 4:
        loss.backward()
    for name, p in backbone.named_parameters():
        assert p.requires_grad is not frozen(name), name
        assert (p.grad is not None) is not frozen(name), name
    for name, module in backbone.named_modules():
        if name.count('.') == 1 or name == 'patch_embed':
            assert module.training is not frozen(name), name


@pytest.mark.parametrize('frozen_stages', [-1, 1])
def test_checkpointing_gives_the_same_gradients(frozen_stages):
    images = torch.randn(2, 3, 50, 66, dtype=torch.float64)
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(1)
        backbone = small(with_cp=with_cp, frozen_stages=frozen_stages, drop_path_rate=0.3).double().train()
        torch.manual_seed(2)
        sum((m * m.detach().sin()).sum() for m in backbone(images)).backward()
        gradients.append({name: p.grad for name, p in backbone.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*gradients)


def test_checkpointing_recomputes_blocks():
    calls = []
    backbone = small(with_cp=True).train()
    backbone.stages[2].blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    sum(m.sum() for m in backbone(torch.randn(1, 3, 64, 64))).backward()
    assert len(calls) == 2


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_gives_finite_maps(dtype):
    with torch.no_grad(), torch.autocast('cpu', dtype):
        maps = small().eval()(torch.randn(1, 3, 70, 90))
    assert all(m.isfinite().all() for m in maps)


def test_constant_images_give_finite_gradients():
    backbone = small().train()
    sum(m.sum() for m in backbone(torch.zeros(2, 3, 64, 64))).backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


def test_drop_path_rises_linearly_over_all_blocks():
    backbone = SecViT('tiny', drop_path_rate=0.14)
    rates = [block.drop_path.drop_prob for stage in backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0.01 * i for i in range(15)])


def test_layer_scale_starts_small_where_the_arch_says():
    backbone = small()
    assert isinstance(backbone.stages[0].blocks[0].scale1, nn.Identity)
    assert torch.equal(backbone.stages[2].blocks[0].scale1.gamma, torch.full((64,), 1e-6))


def test_initial_weights_are_truncated_normal():
    backbone = SecViT('tiny')
    weight = backbone.stages[3].blocks[0].ffn.fc1.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not backbone.patch_embed.proj[0].bias.any()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='huge'), r"arch must be one of \['base', 'large', 'small', 'tiny'\] or a dict, got 'huge'"),
        (dict(arch=dict(depths=(1,))), r"an arch dict must have the keys .* got \['depths'\]"),
        (dict(arch=SMALL_ARCH | dict(depths=(1, 2))), r"must have one length, got .*'depths': 2"),
        (dict(arch=SMALL_ARCH | dict(num_heads=(3, 2, 4, 6))), r'must be a multiple of 4, got 16 / 3'),
        (dict(num_clusters=(8, 4)), r'num_clusters must have one value per stage, 4, got \(8, 4\)'),
        (dict(num_clusters=(8, 4, 0, 1)), r'num_clusters must be at least 1, got \(8, 4, 0, 1\)'),
        (dict(cluster_size=0), r'cluster_size must be at least 1, got \(0, 0, 0, 0\)'),
        (dict(num_clusters=(8, 4, 2, 1), cluster_size=9), r'num_clusters and cluster_size exclude each other'),
        (dict(out_indices=(0, 4)), r'out_indices must be in \[0, 3\], got \(0, 4\)'),
        (dict(out_indices=()), r'out_indices must name at least one stage'),
        (dict(out_indices=(1, 1)), r'out_indices must name at least one stage, each once, got \(1, 1\)'),
        (dict(frozen_stages=5), r'frozen_stages must be in \[-1, 4\], got 5'),
        (dict(drop_path_rate=1.0), r'drop_path_rate must be in \[0, 1\), got 1.0'),
        (dict(norm_cfg=dict(type='GN')), r"norm_cfg must have type 'BN' or 'SyncBN', got \{'type': 'GN'\}"),
        (dict(in_channels=0), r'in_channels must be at least 1, got 0'),
    ],
)
def test_unusable_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SecViT(**{'arch': SMALL_ARCH, **options})


def test_unknown_options_are_named():
    with pytest.raises(TypeError, match='num_cluster'):
        SecViT('tiny', num_cluster=3)


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((1, 3, 0, 32), r'height and width must be at least 1, got images of shape \(1, 3, 0, 32\)'),
        ((1, 4, 32, 32), r'expected images of shape \(B, 3, H, W\), got \(1, 4, 32, 32\)'),
        ((3, 32, 32), r'expected images of shape \(B, 3, H, W\), got \(3, 32, 32\)'),
    ],
)
def test_unusable_images_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))


def test_other_channel_counts():
    assert small(in_channels=5).eval()(torch.randn(1, 5, 32, 32))[0].shape == (1, 16, 8, 8)


def test_builds_without_mmdet_mmseg_and_friends():
    code = (
        'import sys\n'
        "absent = ('mmdet', 'mmseg', 'mmcv._ext', 'torchvision', 'timm', 'einops')\n"
        'sys.modules.update(dict.fromkeys(absent))\n'
        'import mmsec, torch\n'
        'from mmsec.registry import MODELS\n'
        "MODELS.build(dict(type='mmsec.SecViT', arch='tiny')).eval()(torch.zeros(1, 3, 32, 32))\n"
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_builds_from_each_hosts_registry(host):
    registry = pytest.importorskip(f'{host}.registry')
    assert isinstance(registry.MODELS.build(dict(type='mmsec.SecViT', arch=SMALL_ARCH)), SecViT)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('value', [0.0, 7.0])
def test_constant_images_at_detection_size_give_numbers_in_half_precision(dtype, value):
    with torch.no_grad(), torch.autocast('cpu', dtype):
        maps = small().eval()(torch.full((1, 3, 800, 1344), value))
    assert all(m.isfinite().all() for m in maps)


def test_equals_the_oracle_with_gradients():
    for options in ({}, dict(cluster_size=20)):
        backbone = small(drop_path_rate=0.0, **options).double()
        images = torch.randn(2, 3, 91, 70, dtype=torch.float64)  # N does not divide by the cluster counts
        parameters = list(backbone.parameters())
        results = []
        for maps in (backbone(images), oracle.forward(backbone, images)):
            gradients = torch.autograd.grad(sum(m.square().sum() for m in maps), parameters)
            results.append([*maps, *gradients])
        for ours, wanted in zip(*results, strict=True):
            assert (ours - wanted).norm() <= 1e-9 * wanted.norm() + 1e-10


def test_gradients_are_deterministic():
    backbone = small(drop_path_rate=0.0)
    images = torch.randn(2, 3, 64, 96)
    first, second = (
        torch.autograd.grad(sum(m.square().sum() for m in backbone(images)), list(backbone.parameters()))
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(('stage', 'block'), [(0, 0), (1, -1), (2, 0), (3, 0)])
def test_clusters_are_those_that_attention_uses(monkeypatch, stage, block):
    backbone, images = small(num_clusters=(7, 4, 2, 1)).eval(), torch.randn(2, 3, 70, 90)
    used = []

    def record(q, k, v, grouping):
        used.append(grouping)
        return cluster_attention(q, k, v, grouping)

    monkeypatch.setattr('mmsec.ops.cluster_attention', record)
    backbone(images)
    depths = SMALL_ARCH['depths']
    grouping = used[sum(depths[:stage]) + block % depths[stage]]
    used.clear()
    ids, scores, score_name = token_clusters(backbone, images, [stage], block)[0]
    assert score_name
    heads, (height, width) = SMALL_ARCH['num_heads'][stage], backbone(images)[stage].shape[2:]
    assert ids.shape == scores.shape == (2, heads, height, width)
    if grouping is None:
        assert not ids.any()
        return
    sizes = torch.stack([(ids == m).sum((2, 3)) for m in range(grouping.num_clusters)])
    assert sizes.sum(0).unique().tolist() == [height * width]
    assert sizes.max() - sizes.min() <= 1
    in_order = ids.flatten(2).gather(-1, grouping.order)  # what attention sees one after the other
    assert torch.equal(in_order, in_order.sort(-1).values)
    sorted_scores = scores.flatten(2).gather(-1, grouping.order)
    assert torch.equal(sorted_scores, sorted_scores.sort(-1).values)


def test_clusters_of_several_stages_come_in_the_order_asked_for():
    backbone, images = small().eval(), torch.randn(1, 3, 64, 64)
    both = token_clusters(backbone, images, [2, 0])
    for found, stage in zip(both, (2, 0), strict=True):
        alone = token_clusters(backbone, images, [stage])[0]
        assert torch.equal(found.ids, alone.ids)
        assert torch.equal(found.scores, alone.scores)


def test_looking_at_clusters_changes_nothing():
    backbone = small(norm_eval=False).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    token_clusters(backbone, torch.randn(1, 3, 64, 64), stages=[0])
    assert backbone.training
    assert backbone.patch_embed.proj[1].training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not backbone.stages[0].blocks[0].attn._forward_pre_hooks


def test_clusters_of_no_stage_or_block_are_refused():
    backbone = small(out_indices=(0, 1))
    with pytest.raises(ValueError, match=r'stage must be in \[0, 1\], got 2'):
        token_clusters(backbone, torch.randn(1, 3, 64, 64), stages=[0, 2])
    with pytest.raises(ValueError, match='stage 1 has 2 blocks, got block 5'):
        token_clusters(backbone, torch.randn(1, 3, 64, 64), stages=[1], block=5)
