"""What all backbones have in common."""

import pytest
import torch

from mmsec.models import ClusTR, SecViT

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


@pytest.mark.parametrize(
    ('make', 'wanted', 'num_layers'), [(lambda: SecViT('tiny'), SECVIT_TINY, 17), (lambda: ClusTR('b1'), CLUSTR_B1, 12)]
)
def test_layers_count_blocks_through_all_stages(make, wanted, num_layers):
    with torch.device('meta'):
        backbone = make()
    for prefix in ('', 'backbone.'):
        found = {name: backbone.get_layer_depth(prefix + name, prefix) for name, _ in backbone.named_parameters()}
        assert {name: found[name] for name in wanted} == {name: (layer, num_layers) for name, layer in wanted.items()}
        assert {layer for layer, _ in found.values()} == set(range(num_layers))
    assert backbone.get_layer_depth('neck.conv.weight', 'backbone.') == (num_layers - 1, num_layers)


def test_stages_that_are_not_built_have_no_layers():
    with torch.device('meta'):
        backbone = ClusTR('b1', out_indices=(1,))
    assert backbone.get_layer_depth('stages.1.blocks.1.norm1.weight') == (3, 5)
    assert backbone.get_layer_depth('stages.1.norm.weight') == (4, 5)


@pytest.mark.parametrize(
    ('make', 'named'),
    [
        (lambda: SecViT('tiny', norm_eval=True, frozen_stages=1), 'set norm_eval=False and frozen_stages=-1'),
        (lambda: ClusTR('b1', frozen_stages=1), 'frozen_stages=1 keeps what was never trained as it is. Unless'),
    ],
)
def test_a_warning_of_frozen_random_weights_names_options_that_the_backbone_has(make, named, log):
    make().init_weights()
    (warning,) = (line for line in log if 'random weights' in line)
    assert named in warning
    assert ('norm_eval' in warning) == ('norm_eval' in named)
