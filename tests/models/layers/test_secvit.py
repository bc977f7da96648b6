import torch
from torch import nn

from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.models.layers.secvit import FFN, Block, LePEAttention, PatchMerging, Stem
from mmsec.ops import rotary_table

BN = dict(type='BN')
SEMANTIC = dict(type='SemanticGrouping')


def nhwc(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A convolution of a map whose channels come last."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def test_stem_and_merging_round_sizes_up():
    assert Stem(3, 16, BN).eval()(torch.zeros(1, 3, 37, 53)).shape == (1, 16, 10, 14)
    assert PatchMerging(16, 32, BN).eval()(torch.zeros(1, 16, 5, 7)).shape == (1, 32, 3, 4)


def test_stem_has_no_activation_after_its_last_norm():
    kinds = [type(layer) for layer in Stem(3, 16, BN).proj]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.GELU] * 3 + [nn.Conv2d, nn.BatchNorm2d]


def test_ffn_adds_its_depthwise_convolution():
    ffn = FFN(4, 12)
    x = torch.randn(1, 3, 3, 4)
    hidden = nn.functional.gelu(ffn.fc1(x))
    torch.testing.assert_close(ffn(x), ffn.fc2(hidden + nhwc(ffn.dwconv, hidden)))


def test_attention_adds_lepe_of_the_unsorted_values():
    attention = LePEAttention(8, 2, SEMANTIC, block=0, count=ClusterCount(1))
    with torch.no_grad():
        attention.qkv.weight[:16] = 0  # equal keys: each token sees the mean of its cluster's values
        attention.qkv.bias[:16] = 0
    x = torch.randn(1, 2, 3, 8)
    values = attention.qkv(x)[..., 16:]
    expected = attention.out_proj(nhwc(attention.lepe, values) + values.mean((1, 2), keepdim=True))
    rotary = rotary_table(2, 3, 4, x.dtype, x.device)
    torch.testing.assert_close(attention(x, rotary), expected)


def test_block_is_three_residuals():
    block = Block(8, 2, mlp_ratio=3, drop_path=0.0, layer_scale=True, grouping=SEMANTIC, block=0, count=ClusterCount(4))
    x = torch.randn(1, 4, 4, 8)
    rotary = rotary_table(4, 4, 4, x.dtype, x.device)
    y = x + nhwc(block.pos, x)
    y = y + 1e-6 * block.attn(block.norm1(y), rotary)
    y = y + 1e-6 * block.ffn(block.norm2(y))
    torch.testing.assert_close(block(x, rotary), y)
