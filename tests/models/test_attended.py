"""What a token attends to is what attention gives it: the values of tokens by their shares are its output."""

import pytest
import torch

from mmsec.models import SecViT, ViT
from mmsec.models.inspection import attention_layer, inputs_of, token_clusters
from mmsec.ops import cluster_attention
from tests.conftest import SMALL_ARCH, SMALL_VIT, each_grouping

ROTARY = dict(SMALL_VIT, rotary=True)
TOKEN = 17


def check(layer, *inputs):
    tokens = layer.tokens(*inputs)
    out = cluster_attention(tokens.query, tokens.key, tokens.value, layer.group(tokens))
    shares = layer.attended(TOKEN, *inputs)
    torch.testing.assert_close(torch.einsum('bhn,bnhd->bhd', shares.flatten(2), tokens.value), out[:, TOKEN])
    ids = layer.clusters(*inputs).ids.flatten(2)
    assert torch.equal(shares.flatten(2) > 0, (ids == ids[..., TOKEN, None]).expand_as(shares.flatten(2)))


@each_grouping
def test_of_secvit(grouping):
    backbone, image = SecViT(SMALL_ARCH, grouping=grouping).eval(), torch.randn(2, 3, 52, 70)
    layers = [attention_layer(backbone, stage) for stage in range(3)]
    for layer, inputs in zip(layers, inputs_of(backbone, image, layers), strict=True):
        check(layer, *inputs)


@pytest.mark.parametrize(
    'options',
    [
        dict(arch=SMALL_VIT),
        dict(arch=ROTARY, img_size=32),
        dict(arch=ROTARY, grouping=dict(type='SemanticGrouping'), num_clusters=3),
    ],
    ids=['global', 'rotary', 'grouping'],
)
def test_of_vit(options):
    backbone, image = ViT(**options, patch_size=4, with_cls_token=False), torch.randn(1, 3, 24, 30)
    block = attention_layer(backbone, 3)
    ((tokens,),) = inputs_of(backbone, image, [block])
    check(block.attn, block.norm1(tokens.x), 0, tokens.grid, tokens.rotary)
    assert torch.equal(
        block.attended(TOKEN, tokens), block.attn.attended(TOKEN, block.norm1(tokens.x), 0, tokens.grid, tokens.rotary)
    )


def test_of_windows_and_class_tokens_only_the_map_is_told():
    backbone = ViT(SMALL_VIT, patch_size=4, window_size=3)
    block = attention_layer(backbone, 1)
    ((tokens,),) = inputs_of(backbone, torch.randn(1, 3, 24, 30), [block])
    shares = block.attended(7, tokens)
    assert shares.shape == (1, 2, 6, 8)
    torch.testing.assert_close(shares.sum((2, 3)), torch.ones(1, 2))
    assert (shares > 0).sum() == 2 * 6  # the third window of a row has two columns


@pytest.mark.parametrize('merging', [dict(type='ToMe'), dict(type='ToMeSD', ratio=0.5)], ids=['ToMe', 'ToMeSD'])
def test_merged_tokens_have_none(merging):
    backbone, image = ViT(SMALL_VIT, patch_size=4, merging=merging), torch.randn(1, 3, 24, 30)
    block = attention_layer(backbone, 2)
    ((tokens,),) = inputs_of(backbone, image, [block])
    assert block.attended(TOKEN, tokens) is None
    assert torch.equal(block.clusters(tokens).ids, token_clusters(backbone, image, [2])[0].ids)
