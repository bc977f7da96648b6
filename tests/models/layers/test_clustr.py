"""The layers of ClusTR against the paper's formulas and what was measured from the public code."""

import numpy as np
import pytest
import torch
from torch import nn

from mmsec.errors import InputError
from mmsec.models.layers.clustr import Block, ClusteredAttention, GlobalAttention
from tests.conftest import DATA


def test_cluster_tokens_are_the_measured_ones():
    measured = {name: torch.from_numpy(array) for name, array in np.load(DATA / 'clustr_official_small.npz').items()}
    x, weight = measured['tokens'], measured['token_weight']
    layer = ClusteredAttention(16, 1, reduction=4).double()
    layer.weight_layer = nn.Identity()  # hand in what the public code was given
    layer.weight_layer.forward = lambda _: weight.log()
    coarse, fine = layer.cluster_tokens(x.view(3, 6, 10, 16))
    torch.testing.assert_close(coarse, measured['merged_3'], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(fine, measured['merged_12'], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('reduction', [1, 2])
def test_every_parameter_and_the_input_get_the_gradient_of_a_plain_computation(reduction):
    block = Block(8, 2, 4, 0.0, reduction).double()
    x = torch.randn(2, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    wanted = x + plain_attention(block.attn, block.norm1(x).flatten(1, 2), size=(4, 5)).view_as(x)
    mlp, y = block.mlp, block.norm2(wanted)
    t = mlp.fc1(y)
    t = torch.nn.functional.gelu(t + mlp.dwconv(t.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    wanted = wanted + mlp.fc2(t)
    out = block(x)
    torch.testing.assert_close(out, wanted)
    inputs = {'x': x, **dict(block.named_parameters())}
    factor = torch.randn_like(out)
    gradients = torch.autograd.grad((out * factor).sum(), list(inputs.values()))
    plain = torch.autograd.grad((wanted * factor).sum(), list(inputs.values()))
    for name, gradient, expected in zip(inputs, gradients, plain, strict=True):
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, expected, msg=lambda text, name=name: f'{name}: {text}')


def plain_attention(attn, x, size):
    """Attention by its formulas: one-hot matrices of clusters, softmax by hand, one head after the other."""
    q = attn.q(x)
    if isinstance(attn, GlobalAttention):
        scales = [(attn.kv, x)]
    else:
        weight = attn.weight_layer(x).exp()
        scales = []
        for kv, merging in zip((attn.kv1, attn.kv2), attn.mergings(x.detach().unflatten(1, size)), strict=True):
            members = torch.nn.functional.one_hot(merging.assignment, merging.num_merged).mT.double()  # (B, K, N)
            scales.append((kv, members @ (weight * x) / (members @ weight + 1e-6)))
    out = []
    for head in range(attn.num_heads):
        part = slice(head * q.shape[-1] // attn.num_heads, (head + 1) * q.shape[-1] // attn.num_heads)
        total = 0
        for kv, tokens in scales:
            k, v = (t[..., part] for t in kv(tokens).chunk(2, -1))
            total = total + (q[..., part] @ k.mT * k.shape[-1] ** -0.5).softmax(-1) @ v
        out.append(total)
    return attn.proj(torch.cat(out, -1))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_large_token_weights_do_not_overflow_half_types(dtype):
    layer = ClusteredAttention(8, 2, reduction=2)
    torch.nn.init.constant_(layer.weight_layer.bias, 20.0)  # exp(20) is beyond float16
    x = torch.randn(1, 6, 6, 8)
    wanted = layer(x)
    out = layer.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert (out - wanted).norm() < 0.1 * wanted.norm()


def test_too_small_regions_are_refused():
    with pytest.raises(InputError, match='region_size=255 is too small for clusters of 64 tokens: give at least 256'):
        ClusteredAttention(8, 1, reduction=8, region_size=255)
