import pytest
import torch

from mmsec.errors import InputError
from mmsec.models import ClusTR
from mmsec.models.checkpoints.clustr import convert
from mmsec.models.checkpoints.loading import load_pretrained
from tests.conftest import DATA
from tests.conftest import SMALL_CLUSTR as SMALL

OFFICIAL = DATA / 'clustr_official_small.pth'


@pytest.fixture
def published():
    return torch.load(OFFICIAL, weights_only=True)['model']


def test_published_names_become_ours(published):
    converted, dropped = convert(published)
    assert sorted(dropped) == ['head.bias', 'head.weight']
    assert set(converted) == set(ClusTR(SMALL).state_dict())
    for theirs, ours in {
        'patch_embed1.proj.weight': 'stages.0.patch_embed.proj.weight',
        'block2.1.attn.kv2.bias': 'stages.1.blocks.1.attn.kv2.bias',
        'block3.0.mlp.dwconv.dwconv.weight': 'stages.2.blocks.0.mlp.dwconv.weight',
        'norm4.weight': 'stages.3.norm.weight',
    }.items():
        assert torch.equal(converted[ours], published[theirs])


def test_our_own_names_stay(published):
    converted, _ = convert(published)
    again, dropped = convert(converted)
    assert list(again) == list(converted)
    assert dropped == []


def test_a_missing_file_says_where_to_get_it_and_names_no_option_that_clustr_lacks(tmp_path):
    with pytest.raises(InputError, match='YtongXie/ClusTR') as error:
        load_pretrained(ClusTR(SMALL), tmp_path / 'clustr_b1.pth')
    assert '--cfg-options model.backbone.init_cfg=None;' in str(error.value)
    assert 'norm_eval' not in str(error.value)
