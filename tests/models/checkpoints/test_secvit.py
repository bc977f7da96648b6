"""The public code's names -> ours."""

import pytest
import torch

from mmsec.errors import InputError
from mmsec.models.checkpoints.loading import backbone_weights
from mmsec.models.checkpoints.reading import read_checkpoint
from mmsec.models.checkpoints.secvit import convert
from tests.conftest import OFFICIAL


@pytest.fixture
def published():
    return read_checkpoint(OFFICIAL)


def test_the_average_is_preferred(published):
    state, dropped = convert(backbone_weights(published)[0])
    weight = state['stages.0.blocks.0.attn.qkv.weight']
    assert weight.shape == (48, 16)
    assert torch.equal(weight, published['model_ema']['layers.0.blocks.0.attn.qkv.weight'][:, :, 0, 0])
    assert {'head.weight', 'proj.bias', 'layers.0.RoPE.angle'} <= set(dropped)
    for average in ({'model_ema': None}, {}):
        state, _ = convert(backbone_weights({'model': published['model'], **average})[0])
        gamma = published['model']['layers.2.blocks.1.gamma_2'].flatten()
        assert torch.equal(state['stages.2.blocks.1.scale2.gamma'], gamma)


def test_other_rotary_frequencies_are_an_error(published):
    published['model']['layers.0.RoPE.angle'] *= 2
    with pytest.raises(InputError, match=r'layers\.0\.RoPE\.angle holds other rotary frequencies'):
        convert(published['model'])
