import pytest
import torch

from mmsec.models import ClusTR
from mmsec.models.inspection import scales_of, token_clusters
from mmsec.ops.merging import Merging
from tests.conftest import SMALL_CLUSTR as SMALL


def test_clusters_do_not_reach_beyond_their_region():
    whole, regions = ClusTR(SMALL).eval(), ClusTR(SMALL, region_size=256).eval()
    regions.load_state_dict(whole.state_dict())
    images = torch.randn(1, 3, 96, 96)  # 24x24 tokens at stride 4, in regions of 12x12
    for backbone, shared in ((whole, True), (regions, False)):
        fine = token_clusters(backbone, images, [0])[0].ids[0, 1]
        left, right = (set(part.unique().tolist()) for part in fine.tensor_split(2, dim=1))
        assert bool(left & right) is shared


def test_sr_ratios_are_checked():
    with pytest.raises(ValueError, match=r'sr_ratios must be at least 1, got \(8, 4, 0, 1\)'):
        ClusTR(SMALL | dict(sr_ratios=(8, 4, 0, 1)))


def test_initial_weights_are_the_published_ones():
    backbone = ClusTR('b1')
    mlp = backbone.stages[3].blocks[0].mlp
    assert mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert mlp.dwconv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert backbone.stages[1].patch_embed.proj.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    assert not any(p.any() for name, p in backbone.named_parameters() if name.endswith('bias'))


@pytest.mark.parametrize(('stage', 'block'), [(0, 0), (1, -1), (2, 0)])
def test_clusters_are_those_that_attention_merges(monkeypatch, stage, block):
    backbone, images = ClusTR(SMALL).eval(), torch.randn(2, 3, 70, 90)
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
    backbone = ClusTR(SMALL).eval()
    (found,) = token_clusters(backbone, torch.randn(2, 3, 70, 90), [3])
    assert found.ids.shape == (2, 1, 3, 3)
    assert not found.ids.any()
    assert scales_of(backbone, 3) == ('all tokens',)
