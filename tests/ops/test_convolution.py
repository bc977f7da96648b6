import pytest
import torch
import torch.nn.functional as F

from mmsec.ops import conv2d_nhwc


@pytest.mark.parametrize(
    ('stride', 'kernel', 'groups', 'out_channels'),
    [(1, 5, 8, 8), (2, 5, 8, 8), (2, 3, 1, 12), (1, 1, 1, 12), (2, 3, 8, 8)],
)
@pytest.mark.parametrize('compiled', [False, True])
def test_is_a_convolution_of_maps_with_channels_last(stride, kernel, groups, out_channels, compiled):
    x = torch.randn(2, 7, 9, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(out_channels, 8 // groups, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(out_channels, dtype=torch.float64, requires_grad=True)

    def ours(*inputs):
        return conv2d_nhwc(*inputs, stride, kernel // 2, groups)

    if compiled:
        torch._dynamo.reset()
        ours = torch.compile(ours, backend='aot_eager', fullgraph=True)
    out = ours(x, weight, bias)
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, kernel // 2, 1, groups).permute(0, 2, 3, 1)
    torch.testing.assert_close(out, expected)
    plus = torch.randn_like(out)
    kept = plus.clone()
    torch.testing.assert_close(conv2d_nhwc(x, weight, bias, stride, kernel // 2, groups, plus=plus), expected + plus)
    assert torch.equal(plus, kept)
    weights = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad((out * weights).sum(), (x, weight, bias)),
        torch.autograd.grad((expected * weights).sum(), (x, weight, bias)),
    )
