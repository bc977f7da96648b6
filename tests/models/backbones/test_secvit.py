import numpy as np
import pytest
import torch
from torch import nn

from mmsec.models import SecViT
from mmsec.models.inspection import token_clusters
from mmsec.ops import lepe_attention
from tests.conftest import DATA, OFFICIAL, SMALL_ARCH
from tools.analysis_tools import reference

TWO_STAGES = dict(embed_dims=(16, 32), depths=(1, 1), num_heads=(1, 2), mlp_ratio=1, layer_scale=(False, True))


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
def test_the_gradient_of_an_image_agrees_with_the_public_code(size):
    measured = np.load(DATA / 'secvit_official_tiny.npz')
    backbone = small(out_norm=False, init_cfg=dict(type='Pretrained', checkpoint=str(OFFICIAL)))
    backbone.init_weights()
    images = torch.from_numpy(measured[f'input_{size}']).double().requires_grad_()
    maps = backbone.double().eval()(images)
    sum((m * torch.linspace(-1, 1, m.numel(), dtype=m.dtype).view_as(m)).sum() for m in maps).backward()
    wanted = torch.from_numpy(measured[f'input_grad_{size}']).double()
    assert (images.grad - wanted).norm() < 1e-6 * wanted.norm()


def test_clusters_are_counted_or_sized():
    counted = small().stages
    assert [stage.clusters_for(1000) for stage in counted] == [32, 8, 2, 1]
    assert counted[0].clusters_for(5) == 5
    sized = small(cluster_size=98).stages
    assert [sized[0].clusters_for(n) for n in (1, 98, 99, 196, 1000)] == [1, 1, 2, 2, 11]
    assert small(cluster_size=(10, 20, 30, 40)).stages[3].clusters_for(80) == 2


def test_blocks_of_a_stage_may_have_clusters_of_their_own():
    stages = small(num_clusters=(8, [4, 2], (3, 1), 1)).stages
    assert [stages[i].clusters_for(1000, block) for i in (0, 1, 2) for block in range(SMALL_ARCH['depths'][i])] == [
        8,
        4,
        2,
        3,
        1,
    ]
    stage = small(cluster_size=(98, [50, 25], 98, 98)).stages[1]
    assert [stage.clusters_for(100, block) for block in range(2)] == [2, 4]


def test_a_stage_may_have_a_grouping_of_its_own():
    names = ('WindowGrouping', 'SemanticGrouping', 'RandomGrouping', 'KMeansGrouping')
    stages = small(grouping=[dict(type=name) for name in names]).stages
    assert tuple(type(stage.blocks[-1].attn.grouping).__name__ for stage in stages) == names
    assert [block.attn.grouping.block for block in stages[1].blocks] == [0, 1]


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


def test_stages_that_nothing_needs_are_not_built():
    backbone = small(out_indices=(2, 0))
    assert len(backbone.stages) == 3
    assert sorted(backbone.out_norms) == ['0', '2']


@pytest.mark.parametrize('arch', sorted(SecViT.arch_zoo))
def test_every_parameter_of_each_arch_receives_a_gradient(arch):
    settings = SecViT.arch_zoo[arch]
    dims = tuple(8 * heads for heads in settings['num_heads'])
    backbone = SecViT(settings | dict(embed_dims=dims, depths=(1, 1, 2, 1))).train()
    sum((m * torch.randn_like(m)).sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    # A key's bias shifts all its scores alike before the rotation; it must have a gradient, however small.
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_out_norm_normalises_each_map():
    m = small().eval()(torch.randn(1, 3, 64, 64))[1]
    torch.testing.assert_close(m.mean(1), torch.zeros_like(m.mean(1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(m.var(1, unbiased=False), torch.ones_like(m.mean(1)), atol=1e-2, rtol=0)


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
        (dict(arch=dict(depths=(1,))), r"an arch dict must have the keys .* got \['depths'\]"),
        (dict(arch=SMALL_ARCH | dict(depths=(1, 2))), r"must have one length, got .*'depths': 2"),
        (dict(arch=SMALL_ARCH | dict(num_heads=(3, 2, 4, 6))), r'must be a multiple of 4, got 16 / 3'),
        (dict(num_clusters=(8, 4)), r'num_clusters must have one value per stage, 4, got \(8, 4\)'),
        (
            dict(num_clusters=(8, (4, 4, 4), 2, 1)),
            r'num_clusters of stage 1 must have one value per block, 2, got \(4, 4, 4\)',
        ),
        (
            dict(num_clusters=(8, [4, 0], 2, 1)),
            r'num_clusters must be whole numbers of at least 1, got \(8, \[4, 0\], 2, 1\)',
        ),
        (dict(num_clusters=(4.0, 2, 1, 1)), r'num_clusters must be whole numbers of at least 1, got \(4.0, 2, 1, 1\)'),
        (dict(grouping=[dict(type='WindowGrouping')] * 3), 'grouping must be a dict or one dict per stage, 4, got 3'),
        (dict(grouping=dict(type='WindowGruping')), "one of .*WindowGrouping.* got 'WindowGruping'"),
        (dict(num_clusters=(8, 4, 0, 1)), r'num_clusters must be whole numbers of at least 1, got \(8, 4, 0, 1\)'),
        (dict(cluster_size=0), r'cluster_size must be whole numbers of at least 1, got \(0, 0, 0, 0\)'),
        (dict(num_clusters=(8, 4, 2, 1), cluster_size=9), r'num_clusters and cluster_size exclude each other'),
        (dict(drop_path_rate=1.0), r'drop_path_rate must be in \[0, 1\), got 1.0'),
        (dict(norm_cfg=dict(type='GN')), r"norm_cfg must have type 'BN' or 'SyncBN', got \{'type': 'GN'\}"),
    ],
)
def test_unusable_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SecViT(**{'arch': SMALL_ARCH, **options})


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('value', [0.0, 7.0])
def test_constant_images_at_detection_size_give_numbers_in_half_precision(dtype, value):
    with torch.no_grad(), torch.autocast('cpu', dtype):
        maps = small().eval()(torch.full((1, 3, 800, 1344), value))
    assert all(m.isfinite().all() for m in maps)


def test_equals_the_reference_with_gradients():
    for options in ({}, dict(cluster_size=20)):
        backbone = small(drop_path_rate=0.0, **options).double()
        images = torch.randn(2, 3, 91, 70, dtype=torch.float64)  # N does not divide by the cluster counts
        parameters = list(backbone.parameters())
        results = []
        for maps in (backbone(images), reference.forward(backbone, images)):
            gradients = torch.autograd.grad(sum(m.square().sum() for m in maps), parameters)
            results.append([*maps, *gradients])
        for ours, wanted in zip(*results, strict=True):
            assert (ours - wanted).norm() <= 1e-9 * wanted.norm() + 1e-10


@pytest.mark.parametrize(('stage', 'block'), [(0, 0), (1, -1), (2, 0), (3, 0)])
def test_clusters_are_those_that_attention_uses(monkeypatch, stage, block):
    backbone, images = small(num_clusters=(7, 4, 2, 1)).eval(), torch.randn(2, 3, 70, 90)
    used = []

    def record(tokens, grouping, lepe):
        used.append(grouping)
        return lepe_attention(tokens, grouping, lepe)

    monkeypatch.setattr('mmsec.ops.lepe_attention', record)
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


def agree(compiled, backbone, images):
    """Whether outputs and gradients are what the backbone gives when it is not compiled."""
    results = []
    for run in (compiled, backbone):
        maps = run(images)
        gradients = torch.autograd.grad(sum(m.square().sum() for m in maps), list(backbone.parameters()))
        results.append([*maps, *gradients])
    for ours, wanted in zip(*results, strict=True):
        assert (ours - wanted).norm() <= 1e-9 * wanted.norm() + 1e-12


def test_inductor_compiles_it_and_a_second_size_does_not_compile_again(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path))
    backbone = SecViT(TWO_STAGES, num_clusters=(8, 2), out_indices=(0,)).double().eval()
    for _ in ('compiled', 'taken from the cache on disk, with the guards that Inductor noted there'):
        torch._dynamo.reset()
        compiled = torch.compile(backbone, fullgraph=True, dynamic=True)
        agree(compiled, backbone, torch.randn(2, 3, 64, 96, dtype=torch.float64))
        with torch.compiler.set_stance('fail_on_recompile'):
            agree(compiled, backbone, torch.randn(2, 3, 100, 84, dtype=torch.float64))
