import torch
from torch import nn

from mmsec.models.layers.maps import DepthwiseConv, LayerScale


def test_depthwise_convolution_works_on_nhwc_maps():
    conv = DepthwiseConv(4, 5)
    x, plus = torch.randn(2, 2, 6, 7, 4)
    before = x.clone(), plus.clone()
    expected = nn.functional.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=2, groups=4)
    torch.testing.assert_close(conv(x, plus), expected.permute(0, 2, 3, 1) + plus)
    assert torch.equal(x, before[0])
    assert torch.equal(plus, before[1])


def test_layer_scale_multiplies_channels():
    scale = LayerScale(3, init_value=0.5)
    assert torch.equal(scale(torch.ones(2, 3)), torch.full((2, 3), 0.5))
