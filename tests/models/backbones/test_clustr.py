import numpy as np
import pytest
import torch

from mmsec.models import ClusTR
from mmsec.models.inspection import scales_of, token_clusters
from mmsec.ops.merging import Merging
from tests.conftest import DATA
from tests.conftest import SMALL_CLUSTR as SMALL

CHECKPOINT = dict(type='Pretrained', checkpoint=str(DATA / 'clustr_official_small.pth'))


def small(**options) -> ClusTR:
    return ClusTR(SMALL, **options)


@pytest.mark.parametrize(('arch', 'parameters'), [('b1', 11_169_417), ('b2', 22_177_941), ('b3', 39_733_210)])
def test_parameter_counts_are_the_published_ones(arch, parameters):
    with torch.device('meta'):
        assert sum(p.numel() for p in ClusTR(arch).parameters()) == parameters


@pytest.mark.parametrize('size', ['64x96', '72x100'])
def test_with_one_region_maps_are_those_of_the_public_code(size):
    backbone = small(init_cfg=CHECKPOINT, region_size=18 * 25)  # as many tokens as the first map has
    backbone.init_weights()
    backbone.double().eval()
    with np.load(DATA / 'clustr_official_small.npz') as measured, torch.no_grad():
        maps = backbone(torch.from_numpy(measured[f'image_{size}']).double())
        for i, ours in enumerate(maps):
            wanted = torch.from_numpy(measured[f'map{i}_{size}'])
            assert (ours - wanted).norm() <= 1e-6 * wanted.norm()
            assert (ours - wanted).abs().max() <= 1e-6 * wanted.abs().max()


def test_clusters_do_not_reach_beyond_their_region():
    whole, regions = small().eval(), small(region_size=256).eval()
    regions.load_state_dict(whole.state_dict())
    images = torch.randn(1, 3, 96, 96)  # 24x24 tokens at stride 4, in regions of 12x12
    for backbone, shared in ((whole, True), (regions, False)):
        fine = token_clusters(backbone, images, [0])[0].ids[0, 1]
        left, right = (set(part.unique().tolist()) for part in fine.tensor_split(2, dim=1))
        assert bool(left & right) is shared


def test_maps_are_the_output_of_the_norm_of_their_stage():
    m = small().eval()(torch.randn(1, 3, 64, 64))[1]
    torch.testing.assert_close(m.mean(1), torch.zeros_like(m.mean(1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(m.var(1, unbiased=False), torch.ones_like(m.mean(1)), atol=1e-2, rtol=0)


def test_drop_path_rises_linearly_over_all_blocks():
    backbone = ClusTR('b1', drop_path_rate=0.09)
    rates = [block.drop_path.drop_prob for stage in backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0.01 * i for i in range(10)])


def test_initial_weights_are_the_published_ones():
    backbone = ClusTR('b1')
    mlp = backbone.stages[3].blocks[0].mlp
    assert mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert mlp.dwconv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert backbone.stages[1].patch_embed.proj.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    assert not any(p.any() for name, p in backbone.named_parameters() if name.endswith('bias'))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch=dict(depths=(1,))), r"an arch dict must have the keys .* got \['depths'\]"),
        (dict(arch=SMALL | dict(depths=(1, 2))), r"must have one length, got .*'depths': 2"),
        (dict(arch=SMALL | dict(num_heads=(3, 2, 4, 6))), r'embed_dims must be a multiple of num_heads, got 16 and 3'),
        (dict(arch=SMALL | dict(sr_ratios=(8, 4, 0, 1))), r'sr_ratios must be at least 1, got \(8, 4, 0, 1\)'),
        (dict(region_size=255), r'region_size=255 is too small for clusters of 64 tokens: give at least 256'),
        (dict(drop_path_rate=1.0), r'drop_path_rate must be in \[0, 1\), got 1.0'),
    ],
)
def test_unusable_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ClusTR(**{'arch': SMALL, **options})


def test_unknown_options_are_named():
    with pytest.raises(TypeError, match='norm_eval'):
        ClusTR('b1', norm_eval=True)


@pytest.mark.parametrize(('stage', 'block'), [(0, 0), (1, -1), (2, 0)])
def test_clusters_are_those_that_attention_merges(monkeypatch, stage, block):
    backbone, images = small().eval(), torch.randn(2, 3, 70, 90)
    used = []
    merged = Merging.sum
    monkeypatch.setattr(Merging, 'sum', lambda self, x: used.append(self.assignment) or merged(self, x))
    size = backbone(images)[stage].shape[2:]
    first = 2 * (sum(SMALL['depths'][:stage]) + block % SMALL['depths'][stage])  # two scales in each block
    wanted = torch.stack(used[first : first + 2], dim=1).unflatten(-1, size)
    (found,) = token_clusters(backbone, images, [stage], block)
    assert torch.equal(found.ids, wanted)
    assert found.scores is None
    assert scales_of(backbone, stage) == ('coarse scale', 'fine scale')


def test_attention_to_all_tokens_is_one_cluster():
    backbone = small().eval()
    (found,) = token_clusters(backbone, torch.randn(2, 3, 70, 90), [3])
    assert found.ids.shape == (2, 1, 3, 3)
    assert not found.ids.any()
    assert scales_of(backbone, 3) == ('all tokens',)
