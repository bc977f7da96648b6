"""Files of timm, DeiT, MAE and DINOv2, written here with their keys, load strictly."""

import re

import pytest
import torch
import torch.nn.functional as F

from mmsec.errors import InputError
from mmsec.models import ViT
from mmsec.models.checkpoints.loading import load_pretrained

DIMS, GRID = 16, 6
OPTIONS = dict(arch=dict(embed_dims=DIMS, depth=2, num_heads=2, mlp_ratio=2), patch_size=4, img_size=24)


def published(num_positions=1 + GRID**2, layer_scale=False, **more):
    """A file's weights as timm names them, random."""
    shapes = {
        'cls_token': (1, 1, DIMS),
        'pos_embed': (1, num_positions, DIMS),
        'patch_embed.proj.weight': (DIMS, 3, 4, 4),
        'patch_embed.proj.bias': (DIMS,),
        'norm.weight': (DIMS,),
        'norm.bias': (DIMS,),
        'head.weight': (10, DIMS),
        **more,
    }
    for i in range(2):
        for name, out, inside in (
            ('attn.qkv', 3 * DIMS, DIMS),
            ('attn.proj', DIMS, DIMS),
            ('mlp.fc1', 2 * DIMS, DIMS),
            ('mlp.fc2', DIMS, 2 * DIMS),
        ):
            shapes |= {f'blocks.{i}.{name}.weight': (out, inside), f'blocks.{i}.{name}.bias': (out,)}
        for name in ('norm1', 'norm2'):
            shapes |= {f'blocks.{i}.{name}.weight': (DIMS,), f'blocks.{i}.{name}.bias': (DIMS,)}
        if layer_scale:
            shapes |= {f'blocks.{i}.ls{j}.gamma': (DIMS,) for j in (1, 2)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def in_transformers_names(state):
    """A file's weights as transformers names those of DINOv2."""
    found = {}
    for key, value in state.items():
        layer = re.fullmatch(r'(blocks\.\d+\.)attn\.qkv\.(\w+)', key)
        if layer:
            names = [f'{layer[1]}attention.attention.{part}.{layer[2]}' for part in ('query', 'key', 'value')]
            found |= dict(zip(names, value.chunk(3), strict=True))
        elif not key.startswith('head'):
            found[key] = value
    for pattern, name in (
        (r'^(cls_token|mask_token|register_tokens)$', r'embeddings.\1'),
        (r'^pos_embed$', 'embeddings.position_embeddings'),
        (r'^patch_embed\.proj', 'embeddings.patch_embeddings.projection'),
        (r'^norm\.', 'layernorm.'),
        (r'^blocks\.', 'encoder.layer.'),
        (r'attn\.proj', 'attention.output.dense'),
        (r'ls(\d)\.gamma', r'layer_scale\1.lambda1'),
    ):
        found = {re.sub(pattern, name, key): value for key, value in found.items()}
    return found


def tokens_by_hand(state, image, front, num_front_positions):
    """What a published ViT makes of an image, from its own names: the tokens behind the last norm."""

    def layer(x, name):
        return F.linear(x, state[f'{name}.weight'], state[f'{name}.bias'])

    def norm(x, name):
        return F.layer_norm(x, (DIMS,), state[f'{name}.weight'], state[f'{name}.bias'], 1e-6)

    x = F.conv2d(image, state['patch_embed.proj.weight'], state['patch_embed.proj.bias'], stride=4).flatten(2).mT
    pos, split = state['pos_embed'], num_front_positions
    front = torch.cat([state[name] for name in front], dim=1)
    front = torch.cat([front[:, :split] + pos[:, :split], front[:, split:]], dim=1)
    x = torch.cat([front.expand(len(x), -1, -1), x + pos[:, split:]], dim=1)
    for i in range(2):
        name = f'blocks.{i}'
        q, k, v = layer(norm(x, f'{name}.norm1'), f'{name}.attn.qkv').unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        attended = layer(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), f'{name}.attn.proj')
        x = x + attended * state.get(f'{name}.ls1.gamma', 1)
        hidden = F.gelu(layer(norm(x, f'{name}.norm2'), f'{name}.mlp.fc1'))
        x = x + layer(hidden, f'{name}.mlp.fc2') * state.get(f'{name}.ls2.gamma', 1)
    return norm(x, 'norm')


FILES = {
    'timm, DeiT or the encoder of MAE': (published(), dict(), ['cls_token'], 1),
    'distilled DeiT': (
        published(2 + GRID**2, dist_token=(1, 1, DIMS), **{'head_dist.weight': (10, DIMS)}),
        dict(num_registers=1),
        ['cls_token', 'dist_token'],
        2,
    ),
    'MAE': (
        published(**{'mask_token': (1, 1, 8), 'decoder_pos_embed': (1, 37, 8), 'decoder_blocks.0.norm1.bias': (8,)}),
        dict(),
        ['cls_token'],
        1,
    ),
    'DINOv2': (
        published(layer_scale=True, mask_token=(1, DIMS), register_tokens=(1, 4, DIMS)),
        dict(layer_scale=1.0, num_registers=4),
        ['cls_token', 'register_tokens'],
        1,
    ),
    'timm with layer scale': (published(GRID**2, layer_scale=True), dict(layer_scale=1.0), ['cls_token'], 0),
}


def load(state, tmp_path, **options):
    torch.save({'model': state}, tmp_path / 'published.pth')
    backbone = ViT(**OPTIONS | options)
    load_pretrained(backbone, tmp_path / 'published.pth')
    return backbone.eval()


@pytest.mark.parametrize(('family', 'rename'), [*((each, dict) for each in FILES), ('DINOv2', in_transformers_names)])
@torch.no_grad()
def test_a_file_is_recognised_and_gives_its_tokens(family, rename, tmp_path, log):
    state, options, front, count = FILES[family]
    backbone = load(rename(state), tmp_path, **options)
    assert f'ViT: the checkpoint is one of {family}' in log
    image = torch.randn(2, 3, 24, 24)
    wanted = tokens_by_hand(state, image, front, count)[:, -(GRID**2) :].mT.unflatten(2, (GRID, GRID))
    torch.testing.assert_close(backbone(image)[0], wanted, atol=1e-5, rtol=1e-4)
    unused = [key for key in rename(state) if key.startswith(('head', 'decoder')) or key == 'mask_token']
    assert any(line.startswith('ViT: not used') and all(key in line for key in unused) for line in log)


def test_what_a_backbone_has_no_place_for_is_named(tmp_path, log):
    options = dict(layer_scale=1.0, with_cls_token=False, out_norm=False, out_indices=(0,))
    backbone = load(FILES['DINOv2'][0], tmp_path, **options)
    (line,) = (line for line in log if line.startswith('ViT: not used'))
    for key in ('cls_token', 'register_tokens', 'norm.weight', 'mask_token', 'blocks.1.attn.qkv.weight'):
        assert key in line
    assert backbone.patch_embed.cls_token is None
    load(FILES['distilled DeiT'][0], tmp_path)
    assert 'dist_token' in log[-1]
    load(published() | {'fc_norm.weight': torch.ones(DIMS)}, tmp_path)
    assert 'fc_norm.weight' in log[-1]


def test_the_last_norm_becomes_that_of_each_map(tmp_path):
    state = published()
    backbone = load(state, tmp_path, out_indices=(1, 0))
    for norm in backbone.out_norms.values():
        assert torch.equal(norm.weight, state['norm.weight'])
        assert torch.equal(norm.bias, state['norm.bias'])


def test_positions_are_resized_to_the_backbone(tmp_path, log):
    state = published()
    backbone = load(state, tmp_path, img_size=(40, 32))
    square = state['pos_embed'][:, 1:].mT.unflatten(2, (GRID, GRID))
    wanted = F.interpolate(square, size=(10, 8), mode='bicubic', align_corners=False)
    torch.testing.assert_close(backbone.patch_embed.pos_embed.detach(), wanted)
    assert 'ViT: positions of 6x6 patches resized to 10x8' in log
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in backbone.state_dict().items()}}, tmp_path / 'own.pth')
    other = ViT(**OPTIONS | dict(img_size=(32, 40)))
    load_pretrained(other, tmp_path / 'own.pth')  # one of its own, which need not be square
    wanted = F.interpolate(wanted, size=(8, 10), mode='bicubic', align_corners=False)
    torch.testing.assert_close(other.patch_embed.pos_embed.detach(), wanted)


@pytest.mark.parametrize(
    ('state', 'options', 'message'),
    [
        (published(layer_scale=True), {}, 'has layer scale, and the backbone has none: set layer_scale=1e-5'),
        (published(), dict(layer_scale=0.1), 'has no layer scale, and the backbone has: set layer_scale=0'),
        (published(1 + 30), {}, 'pos_embed holds 31 positions, .*: the patches are of no square map'),
        (published(), dict(patch_size=8), r'1 of another shape: patch_embed.proj.weight: \(16, 3, 4, 4\) in the file'),
        ({'layers.0.x': torch.zeros(1)}, {}, 'does not fit this ViT'),
        (published(**{'blocks.0.attn.q_norm.weight': (8,)}), {}, '1 unknown: blocks.0.attn.q_norm.weight'),
        (published(register_tokens=(1, 4, DIMS)), dict(num_registers=2), 'of another shape: .*register_tokens'),
    ],
    ids=range(7),
)
def test_a_file_that_does_not_fit_is_one_line(state, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load(state, tmp_path, **options)
