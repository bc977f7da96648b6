"""DINOv3's weights under the names of each of its three publishers give the maps of timm's model."""

import re

import numpy as np
import pytest
import torch

from mmsec.errors import InputError
from mmsec.models import ViT
from mmsec.models.checkpoints.loading import load_pretrained
from tests.conftest import DATA

ARCH = ViT.arch_zoo['dinov3-small'] | dict(embed_dims=32, depth=2, num_heads=2)
MEASURED = {name: torch.from_numpy(value) for name, value in np.load(DATA / 'dinov3_tiny_timm.npz').items()}


def timm(kind):
    """Weights as timm names them."""
    return {key.removeprefix(f'{kind}/state/'): value for key, value in MEASURED.items() if f'{kind}/state' in key}


def renamed(state, *pairs):
    for pattern, name in pairs:
        state = {re.sub(pattern, name, key): value for key, value in state.items()}
    return state


def official(kind, mask=1.0):
    """Weights as facebookresearch/dinov3 names them, with all that its files hold beside them.

    The bias of the keys, which stands under a mask, is no 0 in a file.
    """
    gated = ((r'fc1_g', 'w1'), (r'fc1_x', 'w2'), (r'mlp\.fc2', 'mlp.w3')) if kind == 'swiglu' else ()
    state = renamed(timm(kind), ('^reg_token', 'storage_tokens'), (r'gamma_(\d)', r'ls\1.gamma'), *gated)
    periods = 100 ** (torch.arange(4) / 4)
    state |= {'mask_token': torch.randn(1, 32), 'rope_embed.periods': periods.bfloat16()}
    state |= {'local_cls_norm.weight': torch.randn(32), 'local_cls_norm.bias': torch.randn(32)}
    for block in (f'blocks.{i}.attn' for i in range(2)):
        if kind == 'mlp':
            query, value = (state.pop(f'{block}.{part}_bias') for part in 'qv')
            state[f'{block}.qkv.bias'] = torch.cat([query, torch.randn(32), value])
            state[f'{block}.qkv.bias_mask'] = torch.cat([torch.ones(32), torch.zeros(32), torch.ones(32)]) * mask
    return state


def transformers(kind, prefix=''):
    """Weights as transformers names them; later versions put ``model.`` in front of some."""
    if kind == 'swiglu':
        layers = (r'fc1_g', 'gate_proj'), (r'fc1_x', 'up_proj'), (r'mlp\.fc2', 'mlp.down_proj')
    else:
        layers = (r'fc1', 'up_proj'), (r'fc2', 'down_proj')
    state = renamed(
        timm(kind),
        ('^cls_token', 'embeddings.cls_token'),
        ('^reg_token', 'embeddings.register_tokens'),
        (r'^patch_embed\.proj', 'embeddings.patch_embeddings'),
        (r'^blocks', f'{prefix}layer'),
        (r'gamma_(\d)', r'layer_scale\1.lambda1'),
        (r'attn\.proj', 'attention.o_proj'),
        (r'attn\.([qv])_bias', r'attention.\1_proj.bias'),
        *layers,
    )
    for i in range(2):
        weights = state.pop(f'{prefix}layer.{i}.attn.qkv.weight').chunk(3)
        names = [f'{prefix}layer.{i}.attention.{part}_proj.weight' for part in 'qkv']
        state |= dict(zip(names, weights, strict=True))
    return state | {'embeddings.mask_token': torch.randn(1, 1, 32)}


NAMES = {
    'timm': timm,
    'official': official,
    'official, never initialised': lambda kind: official(kind, mask=torch.nan),
    'transformers': transformers,
    'transformers, later': lambda kind: transformers(kind, 'model.'),
}


def load(state, folder, arch=ARCH, **options):
    torch.save(state, folder / 'published.pth')
    backbone = ViT(arch, **options)
    load_pretrained(backbone, folder / 'published.pth')
    return backbone.eval()


@pytest.mark.parametrize('kind', ['mlp', 'swiglu'])
@pytest.mark.parametrize('name', NAMES)
@torch.no_grad()
def test_maps_are_those_of_timm_whatever_the_names(name, kind, tmp_path, log):
    arch = ARCH | dict(swiglu=kind == 'swiglu')
    backbone = load(NAMES[name](kind), tmp_path, arch, out_indices=(0, 1), out_norm=False)
    assert 'ViT: the checkpoint is one of DINOv3' in log
    for i, found in enumerate(backbone(MEASURED['image'])):
        torch.testing.assert_close(found, MEASURED[f'{kind}/map_of_block{i}_before_norm'], atol=2e-5, rtol=0)
    backbone = load(NAMES[name](kind), tmp_path, arch)
    *_, tokens = backbone.tokens(MEASURED['image'])
    found = backbone.out_norms['1'](tokens.x)
    torch.testing.assert_close(found, MEASURED[f'{kind}/forward_features'], atol=2e-5, rtol=0)
    assert all('norm.weight' not in line or 'local_cls_norm' in line for line in log[-2:])


def test_of_the_whole_bias_that_of_the_keys_is_masked(tmp_path):
    state = official('mlp')
    bias = load(state, tmp_path).blocks[0].attn.qkv.bias
    query, key, value = bias.chunk(3)
    assert not key.any()
    given = state['blocks.0.attn.qkv.bias']
    assert torch.equal(value, given[64:])
    assert torch.equal(query.unflatten(0, (2, 8, 2)).mT.flatten(), given[:32])
    assert not any(
        block.attn.qkv.bias.any() for block in load(official('swiglu'), tmp_path, ARCH | dict(swiglu=True)).blocks
    )


@pytest.mark.parametrize('options', [{}, dict(num_registers=0, layer_scale=0, with_cls_token=False, out_norm=False)])
def test_one_of_its_own_comes_back_as_it_is(options, tmp_path):
    trained = ViT(ARCH, **options)
    again = load({'state_dict': trained.state_dict()}, tmp_path, **options)
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in again.state_dict().items())


def without(state, *keys):
    return {key: value for key, value in state.items() if key not in keys}


LEARNED = timm('mlp') | {'pos_embed': torch.zeros(1, 10, 32)}
PLAIN = dict(embed_dims=32, depth=2, num_heads=2, mlp_ratio=4)


@pytest.mark.parametrize(
    ('state', 'arch', 'message'),
    [
        (timm('mlp'), PLAIN, "has rotary positions, and the backbone learned ones: set arch='dinov3-base' or"),
        (LEARNED, ARCH, 'is none of DINOv3, whose rotary positions the backbone has: set another arch'),
        (without(timm('mlp'), 'reg_token'), ARCH, 'is none of DINOv3, whose rotary'),
        (timm('swiglu'), ARCH, '8 missing: blocks.0.mlp.fc1.weight.*unknown: blocks.0.mlp.w1.weight'),
        (timm('mlp'), ARCH | dict(embed_dims=40), 'of another shape: '),
        (timm('mlp'), ARCH | dict(num_registers=2), '1 of another shape: patch_embed.register_tokens'),
        (timm('mlp'), ARCH | dict(layer_scale=0), 'has layer scale, and the backbone has none'),
        (official('mlp') | {'rope_embed.periods': torch.ones(4)}, ARCH, 'holds other rotary periods than DINOv3'),
        (without(timm('mlp'), 'blocks.1.attn.q_bias'), ARCH, '1 missing: blocks.1.attn.qkv.bias.*1 unknown: .*v.bias'),
        (without(transformers('mlp'), 'layer.0.attention.k_proj.weight'), ARCH, '1 missing: blocks.0.attn.qkv.weight'),
        (without(official('mlp'), 'storage_tokens'), ARCH, 'is none of DINOv3'),
        (timm('mlp') | {'blocks.0.attn.q_norm.weight': torch.ones(16)}, ARCH, '1 unknown: blocks.0.attn.q_norm.weight'),
    ],
    ids=range(12),
)
def test_a_file_that_does_not_fit_is_one_line(state, arch, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        load(state, tmp_path, arch)
    assert '\n' not in str(error.value)


SIZES = {  # width, blocks, heads, hidden width, whether gated
    'small': (384, 12, 6, 1536, False),
    'small-plus': (384, 12, 6, 1536, True),
    'base': (768, 12, 12, 3072, False),
    'large': (1024, 24, 16, 4096, False),
    'large-plus': (1024, 24, 16, 4096, True),
    'huge-plus': (1280, 32, 20, 5120, True),
    '7b': (4096, 40, 32, 8192, True),
}


def test_sizes_are_the_published_ones():
    assert {name for name in ViT.arch_zoo if 'dinov3' in name} == {f'dinov3-{size}' for size in SIZES}
    for size, (width, depth, heads, hidden, gated) in SIZES.items():
        with torch.device('meta'):
            backbone = ViT(f'dinov3-{size}')
        first = backbone.blocks[0]
        assert (len(backbone.blocks), first.num_heads, backbone.patch_embed.rotary_dims) == (
            depth,
            heads,
            width // heads,
        )
        assert (first.mlp.w1 if gated else first.mlp.fc1).weight.shape == (hidden, width)
        assert {each.eps for each in backbone.modules() if isinstance(each, torch.nn.LayerNorm)} == {1e-5}
        if size == 'small':  # which timm's has not, its bias of queries, keys and values is 0
            parameters = sum(p.numel() for name, p in backbone.named_parameters() if not name.endswith('qkv.bias'))
            assert parameters == 21_586_944
