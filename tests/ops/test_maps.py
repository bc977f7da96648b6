import pytest
import torch
import torch.nn.functional as F

from mmsec.ops import add, conv2d, gelu_and_mix, linear, linear_chunks


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
        return conv2d(*inputs, stride, kernel // 2, groups)

    if compiled:
        torch._dynamo.reset()
        ours = torch.compile(ours, backend='aot_eager', fullgraph=True)
    out = ours(x, weight, bias)
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, kernel // 2, 1, groups).permute(0, 2, 3, 1)
    torch.testing.assert_close(out, expected)
    plus = torch.randn_like(out)
    kept = plus.clone()
    torch.testing.assert_close(conv2d(x, weight, bias, stride, kernel // 2, groups, plus), expected + plus)
    assert torch.equal(plus, kept)
    weights = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad((out * weights).sum(), (x, weight, bias)),
        torch.autograd.grad((expected * weights).sum(), (x, weight, bias)),
    )


def test_linear_is_a_linear_layer_of_each_token():
    x, weight, bias = torch.randn(2, 3, 5, 4), torch.randn(6, 4), torch.randn(6)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    parts = linear_chunks(x, weight, bias, 3)
    torch.testing.assert_close(torch.cat(parts, -1), F.linear(x, weight, bias))
    assert [part.shape for part in parts] == [(2, 3, 5, 2)] * 3


def test_sum_is_as_wide_as_the_wider_and_leaves_the_map_alone():
    x = torch.randn(3)
    kept = x.clone()
    assert add(x, torch.ones(3, dtype=torch.bfloat16)).dtype == torch.float32
    torch.testing.assert_close(add(x, torch.ones(3)), kept + 1)
    assert torch.equal(x, kept)


def test_gelu_is_mixed_with_its_neighbours():
    x, weight, bias = torch.randn(1, 4, 5, 6), torch.randn(6, 1, 3, 3), torch.randn(6)
    hidden = F.gelu(x)
    mixed = F.conv2d(hidden.permute(0, 3, 1, 2), weight, bias, padding=1, groups=6).permute(0, 2, 3, 1)
    torch.testing.assert_close(gelu_and_mix(x.clone(), weight, bias), hidden + mixed)
