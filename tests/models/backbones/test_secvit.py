import numpy as np
import pytest
import torch
import torch._inductor.config
from torch import nn

from mmsec.models import SecViT
from mmsec.models.inspection import token_clusters
from mmsec.ops import cluster_ids, lepe_attention
from tests.conftest import DATA, OFFICIAL, SMALL_ARCH
from tests.models.backbones.small import assert_close, autocast, outputs_and_gradients
from tools.analysis_tools import reference

TWO_STAGES = dict(embed_dims=(16, 32), depths=(1, 1), num_heads=(1, 2), mlp_ratio=1, layer_scale=(False, True))


def small(**options) -> SecViT:
    return SecViT(arch=SMALL_ARCH, **options)


@pytest.mark.parametrize('size', ['64x96', '128x160'])
def test_the_gradient_of_an_image_agrees_with_the_public_code(size):
    measured = np.load(DATA / 'secvit_official_tiny.npz')
    backbone = small(out_norm=False, init_cfg=dict(type='Pretrained', checkpoint=str(OFFICIAL)))
    backbone.init_weights()
    images = torch.from_numpy(measured[f'input_{size}']).double()
    gradient = outputs_and_gradients(backbone.double().eval(), images)[4]
    wanted = torch.from_numpy(measured[f'input_grad_{size}']).double()
    assert (gradient - wanted).norm() < 1e-6 * wanted.norm()


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(cluster_size=20),
        dict(cluster_size=(98, [50, 25], 98, 98)),
        dict(num_clusters=(7, [5, 2], (3, 1), 1), grouping=[dict(type='SemanticGrouping')] * 4),
    ],
    ids=str,
)
def test_equals_the_reference_with_gradients(options):
    backbone = small(drop_path_rate=0.0, **options).double()
    images = torch.randn(2, 3, 91, 70, dtype=torch.float64)  # N does not divide by the cluster counts
    ours = outputs_and_gradients(backbone, images)
    wanted = outputs_and_gradients(backbone, images, lambda x: reference.forward(backbone, x))
    assert_close(ours, wanted, smallest=1e-10)  # gradients of a key's bias are nearly 0


def test_stages_and_blocks_may_have_clusters_of_their_own():
    for options, wanted in (
        (dict(), [32, 8, 8, 2, 2, 1]),
        (dict(num_clusters=(8, [4, 2], (3, 1), 1)), [8, 4, 2, 3, 1, 1]),
        (dict(cluster_size=(10, [20, 30], 500, 40)), [100, 50, 34, 2, 2, 25]),
    ):
        stages = small(**options).stages
        assert [s.clusters_for(1000, block) for s in stages for block in range(len(s.blocks))] == wanted


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_clusters=(8, 4)), r'num_clusters must have one value per stage, 4, got \(8, 4\)'),
        (dict(num_clusters=(8, 4, 2, 1), cluster_size=9), r'num_clusters and cluster_size exclude each other'),
        (dict(grouping=dict(type='WindowGruping')), "one of .*WindowGrouping.* got 'WindowGruping'"),
        (dict(norm_cfg=dict(type='GN')), r"norm_cfg must have type 'BN' or 'SyncBN', got \{'type': 'GN'\}"),
    ],
)
def test_unusable_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_a_stage_may_have_a_grouping_of_its_own():
    names = ('WindowGrouping', 'SemanticGrouping', 'RandomGrouping', 'KMeansGrouping')
    stages = small(grouping=[dict(type=name) for name in names]).stages
    assert tuple(type(stage.blocks[-1].attn.grouping).__name__ for stage in stages) == names
    assert [block.attn.grouping.block for block in stages[1].blocks] == [0, 1]


def test_layer_scale_starts_small_where_the_arch_says():
    backbone = small()
    assert isinstance(backbone.stages[0].blocks[0].scale1, nn.Identity)
    assert torch.equal(backbone.stages[2].blocks[0].scale1.gamma, torch.full((64,), 1e-6))


def test_initial_weights_are_truncated_normal():
    backbone = SecViT('tiny')
    weight = backbone.stages[3].blocks[0].ffn.fc1.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not backbone.patch_embed.proj[0].bias.any()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('value', [0.0, 7.0])
def test_constant_images_at_detection_size_give_numbers_in_half_precision(dtype, value):
    with torch.no_grad(), autocast(dtype):
        maps = small().eval()(torch.full((1, 3, 800, 1344), value))
    assert all(m.isfinite().all() for m in maps)


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
    assert torch.equal(ids.flatten(2), cluster_ids(grouping))
    sorted_scores = scores.flatten(2).gather(-1, grouping.order)
    assert torch.equal(sorted_scores, sorted_scores.sort(-1).values)


def test_inductor_compiles_it_and_a_second_size_does_not_compile_again(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, 'simdlen', 1)  # scalar code, which compiles in half the time
    backbone = SecViT(TWO_STAGES, num_clusters=(8, 2), out_indices=(0,)).double().eval()
    for _ in ('compiled', 'taken from the cache on disk, with the guards that Inductor noted there'):
        torch._dynamo.reset()
        compiled = torch.compile(backbone, fullgraph=True, dynamic=True)
        x, other = (torch.randn(2, 3, *size, dtype=torch.float64) for size in ((64, 96), (100, 84)))
        assert_close(outputs_and_gradients(compiled, x), outputs_and_gradients(backbone, x))
        with torch.compiler.set_stance('fail_on_recompile'):
            assert_close(outputs_and_gradients(compiled, other), outputs_and_gradients(backbone, other))
