"""The layers of ClusTR, put together as the paper does, against outputs measured from the public code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmsec.errors import InputError
from mmsec.models.layers.clustr import Block, ClusteredAttention, GlobalAttention, PatchEmbed

DATA = Path(__file__).parents[1] / 'data'


class Assembly(nn.Module):
    """Four stages with the published names; it stands here until the backbone exists."""

    def __init__(self, embed_dims, depths, num_heads, mlp_ratios, region_size=None):
        super().__init__()
        channels = [3, *embed_dims]
        for i, reduction in enumerate((8, 4, 2, 1)):
            patch_embed = PatchEmbed(channels[i], channels[i + 1], *((7, 4) if i == 0 else (3, 2)))
            options = (channels[i + 1], num_heads[i], mlp_ratios[i], 0.0, reduction, region_size)
            setattr(self, f'patch_embed{i + 1}', patch_embed)
            setattr(self, f'block{i + 1}', nn.Sequential(*(Block(*options) for _ in range(depths[i]))))
            setattr(self, f'norm{i + 1}', nn.LayerNorm(channels[i + 1], eps=1e-6))

    def forward(self, x):
        maps = []
        for i in range(1, 5):
            for name in ('patch_embed', 'block', 'norm'):
                x = getattr(self, f'{name}{i}')(x)
            x = x.permute(0, 3, 1, 2)
            maps.append(x)
        return maps


@pytest.fixture(scope='module')
def measured():
    with np.load(DATA / 'clustr_official_small.npz') as file:
        return {name: torch.from_numpy(array) for name, array in file.items()}


@pytest.fixture(scope='module')
def small():
    model = Assembly((16, 32, 48, 64), (1, 2, 2, 1), (1, 2, 3, 4), (8, 8, 4, 4))
    state = torch.load(DATA / 'clustr_official_small.pth', weights_only=True)['model']
    state = {key.replace('dwconv.dwconv', 'dwconv'): value for key, value in state.items()}
    del state['head.weight'], state['head.bias']
    model.load_state_dict(state)
    return model.double().eval()


@pytest.mark.parametrize('size', ['64x96', '72x100'])
def test_maps_are_those_of_the_public_code(measured, small, size):
    with torch.no_grad():
        maps = small(measured[f'image_{size}'].double())
    for i, x in enumerate(maps):
        wanted = measured[f'map{i}_{size}']
        assert x.shape == wanted.shape
        assert (x - wanted).norm() <= 1e-6 * wanted.norm()
        assert (x - wanted).abs().max() <= 1e-6 * wanted.abs().max()


def test_regions_that_hold_a_whole_map_change_no_bit(measured, small):
    in_regions = Assembly((16, 32, 48, 64), (1, 2, 2, 1), (1, 2, 3, 4), (8, 8, 4, 4), region_size=18 * 25).double()
    in_regions.load_state_dict(small.state_dict())
    image = measured['image_72x100'].double()
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(small(image), in_regions(image), strict=True))


def test_published_dims_have_the_published_number_of_parameters():
    arch = ((64, 128, 256, 512), (1, 2, 6, 1), (1, 2, 4, 8), (8, 8, 4, 4))
    with torch.device('meta'):
        assert sum(p.numel() for p in Assembly(*arch).parameters()) == 11_169_417


def test_cluster_tokens_are_the_measured_ones(measured):
    x, weight = measured['tokens'], measured['token_weight']
    layer = ClusteredAttention(16, 1, reduction=4).double()
    layer.weight_layer = nn.Identity()  # hand in what the public code was given
    layer.weight_layer.forward = lambda _: weight.log()
    coarse, fine = layer.cluster_tokens(x.view(3, 6, 10, 16))
    torch.testing.assert_close(coarse, measured['merged_3'], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(fine, measured['merged_12'], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('size', [(1, 1), (1, 2), (2, 2), (1, 7), (9, 7)])
@pytest.mark.parametrize('reduction', [1, 2, 8])
def test_blocks_take_any_map_and_an_image_does_not_depend_on_its_batch(size, reduction):
    block = Block(8, 2, 4, 0.0, reduction).double()
    x = torch.randn(3, *size, 8, dtype=torch.float64)
    together = block(x)
    assert together.shape == x.shape
    torch.testing.assert_close(together, torch.cat([block(image) for image in x.split(1)]), rtol=1e-12, atol=1e-12)


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
