"""What all backbones have in common."""

import pytest
import torch

from mmsec.models import ClusTR, SecViT
from tests.conftest import SMALL_ARCH, SMALL_CLUSTR


def test_a_warning_of_frozen_random_weights_names_no_option_that_the_backbone_lacks(log):
    ClusTR('b1', frozen_stages=1).init_weights()
    (warning,) = (line for line in log if 'random weights' in line)
    assert 'frozen_stages=1 keeps what was never trained as it is. Unless' in warning
    assert 'norm_eval' not in warning


@pytest.mark.parametrize(('kind', 'arch'), [(SecViT, SMALL_ARCH), (ClusTR, SMALL_CLUSTR)])
def test_maps_are_normalised_over_their_channels(kind, arch):
    m = kind(arch).eval()(torch.randn(1, 3, 64, 64))[1]
    torch.testing.assert_close(m.mean(1), torch.zeros_like(m.mean(1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(m.var(1, unbiased=False), torch.ones_like(m.mean(1)), atol=1e-2, rtol=0)


@pytest.mark.parametrize(('kind', 'arch', 'depth'), [(SecViT, 'tiny', 15), (ClusTR, 'b1', 10)])
def test_drop_path_rises_linearly_over_all_blocks(kind, arch, depth):
    stages = kind(arch, drop_path_rate=0.01 * (depth - 1)).stages
    rates = [block.drop_path.drop_prob for stage in stages for block in stage.blocks]
    assert rates == pytest.approx([0.01 * i for i in range(depth)])


@pytest.mark.parametrize(('kind', 'arch'), [(SecViT, SMALL_ARCH), (ClusTR, SMALL_CLUSTR)])
def test_an_arch_that_cannot_be_built_is_named(kind, arch):
    for change, message in (
        (dict(arch='huge'), "arch must be one of .* or a dict, got 'huge'"),
        (dict(arch=dict(depths=(1,))), r"an arch dict must have the keys .* got \['depths'\]"),
        (dict(arch=arch | dict(depths=(1, 2))), r"must have one length, got .*'depths': 2"),
        (dict(arch=arch | dict(num_heads=(3, 2, 4, 6))), r'must be a multiple of .*, got 16 (and|/) 3'),
        (dict(arch=arch, drop_path_rate=1.0), r'drop_path_rate must be in \[0, 1\), got 1.0'),
    ):
        with pytest.raises(ValueError, match=message):
            kind(**change)
