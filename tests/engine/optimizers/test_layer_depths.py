"""Layers of the backbones of mmsec."""

import pytest
import torch
from torch import nn

from mmsec.engine.optimizers.layer_decay import layer_depths
from mmsec.models import ClusTR, SecViT, ViT

SECVIT_TINY = {  # 2 + 2 + 9 + 2 blocks
    'patch_embed.proj.0.weight': 0,
    'stages.0.blocks.0.norm1.weight': 1,
    'stages.0.blocks.1.attn.qkv.bias': 2,
    'downsamples.0.reduction.weight': 3,
    'stages.1.blocks.0.ffn.fc1.weight': 3,
    'downsamples.1.norm.weight': 5,
    'stages.2.blocks.8.ffn.fc2.bias': 13,
    'downsamples.2.norm.bias': 14,
    'stages.3.blocks.1.pos.weight': 15,
    'out_norms.0.weight': 16,
    'out_norms.3.bias': 16,
}
CLUSTR_B1 = {  # 1 + 2 + 6 + 1 blocks
    'stages.0.patch_embed.proj.weight': 0,
    'stages.0.patch_embed.norm.bias': 0,
    'stages.0.blocks.0.norm1.weight': 1,
    'stages.0.norm.weight': 2,
    'stages.1.patch_embed.proj.weight': 2,
    'stages.1.blocks.1.attn.kv1.weight': 3,
    'stages.2.patch_embed.norm.weight': 4,
    'stages.2.blocks.5.mlp.dwconv.bias': 9,
    'stages.2.norm.bias': 10,
    'stages.3.patch_embed.proj.bias': 10,
    'stages.3.blocks.0.attn.kv.weight': 10,
    'stages.3.norm.weight': 11,
}


def depths(make):
    """The layers of all parameters of a model with that backbone."""
    with torch.device('meta'):
        return layer_depths(nn.ModuleDict({'backbone': make(), 'neck': nn.Linear(1, 1)}))


@pytest.mark.parametrize(
    ('make', 'wanted', 'num_layers'), [(lambda: SecViT('tiny'), SECVIT_TINY, 17), (lambda: ClusTR('b1'), CLUSTR_B1, 12)]
)
def test_layers_count_blocks_through_all_stages(make, wanted, num_layers):
    found = depths(make)
    assert {name: found[f'backbone.{name}'] for name in wanted} == {name: (i, num_layers) for name, i in wanted.items()}
    assert {layer for layer, _ in found.values()} == set(range(num_layers))
    assert found['neck.weight'] == (num_layers - 1, num_layers)


def test_stages_that_are_not_built_have_no_layers():
    found = depths(lambda: ClusTR('b1', out_indices=(1,)))
    assert found['backbone.stages.1.blocks.1.norm1.weight'] == (3, 5)
    assert found['backbone.stages.1.norm.weight'] == (4, 5)


def test_layers_of_a_plain_vit_are_its_blocks():
    found = depths(lambda: ViT('tiny', num_registers=1, layer_scale=0.1, out_indices=(0, 2)))
    for prefix, layer in (('patch_embed', 0), ('blocks.0', 1), ('blocks.1', 2), ('blocks.2', 3), ('out_norms', 4)):
        assert {found[name] for name in found if name.startswith(f'backbone.{prefix}.')} == {(layer, 5)}
    assert found['neck.weight'] == (4, 5)
