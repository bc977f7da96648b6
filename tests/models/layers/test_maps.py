import torch

from mmsec.models.layers.maps import LayerScale


def test_layer_scale_multiplies_channels():
    scale = LayerScale(3, init_value=0.5)
    assert torch.equal(scale(torch.ones(2, 3)), torch.full((2, 3), 0.5))
