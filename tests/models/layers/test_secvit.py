import pytest
import torch
from torch import nn

from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.models.layers.maps import Conv2d
from mmsec.models.layers.secvit import FFN, Block, ClusterAttention, PatchMerging, Stem
from mmsec.ops import explain, rotary_table

BN = dict(type='BN')
SEMANTIC = dict(type='SemanticGrouping')


def test_stem_and_merging_round_sizes_up():
    assert Stem(3, 16, BN).eval()(torch.zeros(1, 3, 37, 53)).shape == (1, 16, 10, 14)
    assert PatchMerging(16, 32, BN).eval()(torch.zeros(1, 16, 5, 7)).shape == (1, 32, 3, 4)


def test_stem_has_no_activation_after_its_last_norm():
    kinds = [type(layer) for layer in Stem(3, 16, BN).proj]
    assert kinds == [Conv2d, nn.BatchNorm2d, nn.GELU] * 3 + [Conv2d, nn.BatchNorm2d]


def test_ffn_adds_its_depthwise_convolution():
    ffn = FFN(4, 12)
    x = torch.randn(1, 3, 3, 4)
    hidden = nn.functional.gelu(ffn.fc1(x))
    torch.testing.assert_close(ffn(x), ffn.fc2(ffn.dwconv(hidden, plus=hidden)))


def test_attention_adds_lepe_of_the_unsorted_values():
    attention = ClusterAttention(8, 2, SEMANTIC, block=0, count=ClusterCount(1))
    with torch.no_grad():
        attention.qkv.weight[:16] = 0  # equal keys: each token sees the mean of its cluster's values
        attention.qkv.bias[:16] = 0
    x = torch.randn(1, 2, 3, 8)
    values = attention.qkv(x)[..., 16:]
    expected = attention.out_proj(attention.lepe(values, plus=values.mean((1, 2), keepdim=True)))
    rotary = rotary_table(2, 3, 4, x.dtype, x.device)
    torch.testing.assert_close(attention(x, rotary), expected)


def test_block_is_three_residuals():
    block = Block(8, 2, mlp_ratio=3, drop_path=0.0, layer_scale=True, grouping=SEMANTIC, block=0, count=ClusterCount(4))
    x = torch.randn(1, 4, 4, 8)
    rotary = rotary_table(4, 4, 4, x.dtype, x.device)
    y = block.pos(x, plus=x)
    y = y + 1e-6 * block.attn(block.norm1(y), rotary)
    y = y + 1e-6 * block.ffn(block.norm2(y))
    torch.testing.assert_close(block(x, rotary), y)


def a_block(layer_scale=False):
    """A block whose memory may be used again, its input and its rotary table."""
    block = Block(8, 2, 3, drop_path=0.1, layer_scale=layer_scale, grouping=SEMANTIC, block=0, count=ClusterCount(4))
    x = torch.randn(2, 4, 4, 8)
    return block.eval(), x, rotary_table(4, 4, 4, x.dtype, x.device)


@pytest.mark.parametrize('layer_scale', [False, True])
@torch.no_grad()
def test_what_a_hook_keeps_is_not_overwritten(layer_scale):
    block, x, rotary = a_block(layer_scale)
    assert {explain(block, x, rotary)[name]['in place'] for name in ('add', 'gelu_and_mix')} == {'chosen'}
    names = [name for name, module in block.named_modules() if name and not name.endswith('grouping')]
    assert {'attn.qkv', 'attn.out_proj', 'ffn.dwconv', 'scale2', 'drop_path'} < set(names)
    expected = block(x, rotary)
    for name in names:
        kept = []
        hook = block.get_submodule(name).register_forward_hook(
            lambda module, given, out, kept=kept: kept.append((out, out.clone()))
        )
        torch.testing.assert_close(block(x, rotary), expected)
        hook.remove()
        assert len(kept) == (2 if name == 'drop_path' else 1), name
        for out, then in kept:
            assert torch.equal(out, then), name


class Adapter(nn.Module):
    """A layer that took the place of another, as low-rank adapters do; it has no weight of its own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args, **options):
        return 2 * self.layer(*args, **options)


def test_a_layer_that_takes_the_place_of_another_is_called():
    block, x, rotary = a_block()
    attention, ffn = block.attn, block.ffn
    found = attention.tokens(x, rotary), ffn(x)
    attention.qkv, ffn.dwconv = Adapter(attention.qkv), Adapter(ffn.dwconv)
    torch.testing.assert_close(attention.tokens(x, rotary).value, 2 * found[0].value)
    hidden = nn.functional.gelu(ffn.fc1(x))
    torch.testing.assert_close(ffn(x), ffn.fc2(2 * ffn.dwconv.layer(hidden, plus=hidden)))
