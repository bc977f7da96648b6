"""Swin of a host with clusters in place of windows. What holds for every backbone is in ``test_contract.py``."""

import pytest
import torch
from mmdet.models.backbones.swin import swin_converter
from mmengine.registry import init_default_scope

from mmsec.errors import InputError
from mmsec.models import ClusteredSwin
from mmsec.models.checkpoints.loading import load_pretrained
from mmsec.models.inspection import token_clusters
from mmsec.ops import cluster_ids
from mmsec.registry import MODELS
from tests.models.backbones.small import with_large_weights
from tools.analysis_tools import reference

SWIN = dict(embed_dims=8, window_size=2, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), drop_path_rate=0.0)
HOSTS = ('mmdet.SwinTransformer', 'mmseg.SwinTransformer')


def swin(host: str = HOSTS[0], **options) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(dict(SWIN, type=host, **options)).double()
    model.eval()  # which returns nothing there
    return with_large_weights(model)


def wrapped(host: str = HOSTS[0], inside: dict | None = None, **options) -> ClusteredSwin:
    return ClusteredSwin(dict(SWIN, type=host, **inside or {}), **options).double().eval()


@pytest.mark.parametrize('host', HOSTS)
def test_clusters_that_are_windows_give_the_maps_of_the_host(host, tmp_path):
    theirs = swin(host)
    for stage in theirs.stages:
        stage.blocks[0].attn.w_msa.relative_position_bias_table.data.zero_()  # what clusters leave out
    torch.save({'model': theirs.state_dict()}, tmp_path / 'swin.pth')
    ours = wrapped(host, grouping=dict(type='WindowGrouping'))  # of a size that 64 x 64 pixels divide by
    load_pretrained(ours, tmp_path / 'swin.pth')
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for found, wanted in zip(ours(images), theirs(images), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize('num_clusters', [3, 1])
def test_a_layer_attends_inside_its_clusters(num_clusters):
    backbone = wrapped(num_clusters=(num_clusters,) * 4)
    layer = backbone.stages[1].blocks[0].attn
    x = torch.randn(2, 35, 16, dtype=torch.float64, requires_grad=True)
    q, k, v = layer.w_msa['qkv'](x).unflatten(-1, (3, 2, 8)).unbind(2)
    ids = reference.semantic_ids(k, num_clusters) if num_clusters > 1 else None
    wanted = layer.w_msa['proj'](reference.attention(q, k, v, ids).flatten(2))
    found = layer(x, (5, 7))
    torch.testing.assert_close(found, wanted)
    results = [
        torch.autograd.grad((each * each.detach().sin()).sum(), [x, *layer.parameters()]) for each in (found, wanted)
    ]
    torch.testing.assert_close(*results)


def test_a_cluster_holds_as_many_tokens_as_a_window_unless_said():
    counts = [stage.blocks[0].attn.count.of(1000) for stage in wrapped(inside=dict(window_size=5)).stages]
    assert counts == [40] * 4
    sized = wrapped(inside=dict(depths=(1, 1, 2, 1)), cluster_size=(10, 20, [30, 100], 40))
    assert [block.attn.count.of(1000) for stage in sized.stages for block in stage.blocks] == [100, 50, 34, 10, 25]
    kinds = ('SemanticGrouping', 'RandomGrouping', 'WindowGrouping', 'KMeansGrouping')
    stages = wrapped(grouping=[dict(type=kind) for kind in kinds]).stages
    assert tuple(type(stage.blocks[0].attn.grouping).__name__ for stage in stages) == kinds


def test_one_sees_the_clusters_that_attention_uses():
    backbone, used = wrapped(num_clusters=(4, 3, 2, 1)), []
    backbone.stages[1].blocks[0].attn.grouping.register_forward_hook(lambda *each: used.append(cluster_ids(each[2])))
    (found,) = token_clusters(backbone, torch.randn(2, 3, 40, 56, dtype=torch.float64), stages=[1])
    assert torch.equal(found.ids.flatten(2), used[0])
    assert found.score_name == 'cosine with the mean key'


def test_files_of_the_authors_load_and_what_is_of_windows_is_named(tmp_path, log):
    authors = {'head.weight': torch.zeros(1), 'norm.weight': torch.zeros(64)}
    names = {'projection.': 'proj.', 'stages.': 'layers.', '.w_msa.': '.'}
    names |= {'.ffn.layers.1.': '.mlp.fc2.', '.ffn.layers.0.0.': '.mlp.fc1.'}
    for key, value in swin().state_dict().items():
        if not key.startswith('norm'):
            for ours, theirs in names.items():
                key = key.replace(ours, theirs)
            authors[key] = value
    torch.save({'model': authors}, tmp_path / 'authors.pth')
    backbone = wrapped()
    load_pretrained(backbone, tmp_path / 'authors.pth')
    converted = {key.removeprefix('backbone.'): value for key, value in swin_converter(authors).items()}
    state = backbone.state_dict()
    compared = [key for key in state if not key.startswith('out_norms.')]
    assert len(compared) > 40
    assert all(torch.equal(state[key], converted[key]) for key in compared)
    printed = '\n'.join(log)
    assert 'not used from the checkpoint: head.weight, norm.weight, layers.0.blocks.0.attn.relative_pos' in printed
    assert 'start as identity: out_norms.0.weight' in printed


def test_what_windows_alone_can_use_is_refused():
    for option, value, needed in (
        ('attn_drop_rate', 0.1, 0.0),
        ('qk_scale', 0.5, None),
        ('use_abs_pos_embed', True, False),
        ('pretrained', 'swin.pth', None),
    ):
        with pytest.raises(ValueError, match=rf'backbone\.{option} must be {needed}, .* got {value!r}'):
            wrapped(inside={option: value})


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(ValueError, match='must be a SwinTransformer of mmdet or mmseg, got a ResNet'):
        ClusteredSwin(dict(type='mmdet.ResNet', depth=18))
    with pytest.raises(ValueError, match='init_cfg is given twice'):
        wrapped(inside=dict(init_cfg=dict(type='Pretrained', checkpoint='a')), init_cfg=dict(type='Pretrained'))


def test_the_checkpoint_of_a_host_config_is_loaded():
    init_cfg = dict(type='Pretrained', checkpoint='absent.pth')
    with pytest.raises(InputError, match=r"'absent\.pth' not found.*microsoft/Swin-Transformer"):
        wrapped(inside=dict(init_cfg=init_cfg)).init_weights()


def test_in_a_host_the_type_needs_no_scope():
    init_default_scope('mmseg')
    backbone = MODELS.build(dict(type='mmsec.ClusteredSwin', backbone=dict(SWIN, type='SwinTransformer')))
    assert type(backbone.patch_embed).__module__.startswith('mmseg.')
