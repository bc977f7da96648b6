import re

import pytest
import torch
from mmengine.model import PretrainedInit

from mmsec.errors import InputError
from mmsec.models import SecViT
from mmsec.models.checkpoints import secvit
from mmsec.models.checkpoints.loading import backbone_weights, load_pretrained, read_pretrained
from mmsec.models.checkpoints.reading import read_checkpoint
from tests.conftest import OFFICIAL, SMALL_ARCH


@pytest.fixture
def published():
    return read_checkpoint(OFFICIAL)


def saved(content, folder):
    path = folder / 'checkpoint.pth'
    torch.save(content, path)
    return path


def small(**options):
    return SecViT(SMALL_ARCH, **options)


def test_the_average_is_preferred(published):
    state, dropped = secvit.convert(backbone_weights(published)[0])
    weight = state['stages.0.blocks.0.attn.qkv.weight']
    assert weight.shape == (48, 16)
    assert torch.equal(weight, published['model_ema']['layers.0.blocks.0.attn.qkv.weight'][:, :, 0, 0])
    assert {'head.weight', 'proj.bias', 'layers.0.RoPE.angle'} <= set(dropped)
    for average in ({'model_ema': None}, {}):
        state, _ = secvit.convert(backbone_weights({'model': published['model'], **average})[0])
        gamma = published['model']['layers.2.blocks.1.gamma_2'].flatten()
        assert torch.equal(state['stages.2.blocks.1.scale2.gamma'], gamma)


def test_a_bare_state_dict_loads(published, tmp_path):
    backbone = small()
    load_pretrained(backbone, saved(published['model'], tmp_path))
    assert torch.equal(backbone.patch_embed.proj[0].weight, published['model']['patch_embed.proj.0.weight'])


def test_a_published_file_says_what_is_left_out_and_what_is_new(log):
    load_pretrained(small(), OFFICIAL)
    assert 'not used from the checkpoint: layers.0.RoPE.angle' in '\n'.join(log)
    assert 'head.weight' in '\n'.join(log)
    assert 'start as identity: out_norms.0.weight' in '\n'.join(log)


def test_output_norms_start_as_identity():
    backbone = small()
    load_pretrained(backbone, OFFICIAL)
    assert torch.equal(backbone.out_norms['1'].weight, torch.ones(32))
    assert not backbone.out_norms['1'].bias.any()


def test_a_checkpoint_trained_here_loads_with_its_norms_and_both_ways(tmp_path, log):
    trained, fresh = small(), small()
    with torch.no_grad():
        trained.out_norms['0'].weight.fill_(3)
    state = {f'backbone.{key}': value for key, value in trained.state_dict().items()}
    state['neck.conv.weight'] = torch.zeros(1)
    load_pretrained(fresh, saved({'state_dict': state, 'meta': {'epoch': 1}}, tmp_path))
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), fresh.state_dict().values(), strict=True)
    )
    assert 'not used from the checkpoint: neck.conv.weight' in '\n'.join(log)


def test_stages_beyond_out_indices_are_left_out(log):
    load_pretrained(small(out_indices=(0, 1)), OFFICIAL)
    assert re.search(r'not used from the checkpoint: .*stages\.3\.blocks', '\n'.join(log))


def test_a_missing_weight_is_an_error(published, tmp_path):
    del published['model_ema']['layers.1.blocks.0.ffn.fc1.bias']
    with pytest.raises(InputError, match=r'1 missing: stages\.1\.blocks\.0\.ffn\.fc1\.bias'):
        load_pretrained(small(), saved(published, tmp_path))


def test_an_unknown_weight_is_an_error(published, tmp_path):
    published['model_ema']['layers.1.blocks.0.extra'] = torch.zeros(1)
    with pytest.raises(InputError, match=r'1 unknown: stages\.1\.blocks\.0\.extra'):
        load_pretrained(small(), saved(published, tmp_path))


def test_a_checkpoint_of_another_size_is_an_error():
    with pytest.raises(InputError, match=r'another size.*missing: .*of another shape: patch_embed') as error:
        load_pretrained(SecViT('tiny'), OFFICIAL)
    assert 'patch_embed.proj.0.weight: (8, 3, 3, 3) in the file, (32, 3, 3, 3) in the backbone' in str(error.value)


def test_nothing_is_loaded_when_something_is_wrong(published, tmp_path):
    backbone = small()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    del published['model_ema']['patch_embed.proj.0.bias']
    with pytest.raises(InputError):
        load_pretrained(backbone, saved(published, tmp_path))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_a_missing_file_says_where_to_get_it(tmp_path):
    path = tmp_path / 'secvit_tiny.pth'
    with pytest.raises(InputError) as error:
        read_pretrained(path, SecViT.published)
    line = '--cfg-options model.backbone.init_cfg=None model.backbone.norm_eval=False'
    for part in (str(path), 'github.com/qhfan/SecViT', line):
        assert part in str(error.value)
    with pytest.raises(InputError, match=r"checkpoint '.*' not found$"):
        read_pretrained(path, None)


def test_init_cfg_loads_and_refuses_keys_it_does_not_know():
    backbone = small(init_cfg=dict(type='Pretrained', checkpoint=str(OFFICIAL)))
    backbone.init_weights()
    assert not backbone.patch_embed.proj[1].running_mean.eq(0).all()
    with pytest.raises(ValueError, match=r"init_cfg keys type and checkpoint, got also \['prefix'\]"):
        small(init_cfg=dict(type='Pretrained', checkpoint=str(OFFICIAL), prefix='backbone.')).init_weights()


@pytest.mark.parametrize('kind', ['Pretrained', 'mmengine.Pretrained', PretrainedInit])
def test_a_checkpoint_in_a_list_of_initialisers_loads_last_and_strictly(published, tmp_path, kind):
    fill = dict(type='Constant', layer=['Conv2d', 'LayerNorm'], val=0.25)
    backbone = small(init_cfg=[dict(type=kind, checkpoint=str(OFFICIAL)), fill])
    backbone.init_weights()
    direct = small()
    load_pretrained(direct, OFFICIAL)
    assert torch.equal(backbone.patch_embed.proj[0].weight, direct.patch_embed.proj[0].weight)
    assert torch.equal(backbone.out_norms['1'].weight, torch.full((32,), 0.25))  # published files have none
    del published['model_ema']['layers.1.blocks.0.ffn.fc1.bias']
    with pytest.raises(InputError, match=r'1 missing: stages\.1\.blocks\.0\.ffn\.fc1\.bias'):
        small(init_cfg=[fill, dict(type=kind, checkpoint=str(saved(published, tmp_path)))]).init_weights()
    with pytest.raises(ValueError, match='SecViT loads one checkpoint, got 2 in init_cfg'):
        small(init_cfg=[dict(type=kind, checkpoint=str(OFFICIAL))] * 2).init_weights()


@pytest.mark.parametrize('init_cfg', [None, dict(type='Constant', layer='Linear', val=0.25)])
@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(norm_eval=True), 'norm_eval=True'),
        (dict(frozen_stages=0), 'frozen_stages=0'),
        (dict(norm_eval=True, frozen_stages=2), 'norm_eval=True and frozen_stages=2'),
        ({}, None),
    ],
)
def test_random_weights_that_stay_as_they_are_are_named(log, options, named, init_cfg):
    small(init_cfg=init_cfg, **options).init_weights()
    assert ('SecViT starts from random weights' in '\n'.join(log)) == bool(named)
    if named:
        assert f'and {named} keeps what was never trained as it is' in '\n'.join(log)
    log.clear()
    small(init_cfg=dict(type='Pretrained', checkpoint=str(OFFICIAL)), **options).init_weights()
    assert 'random weights' not in '\n'.join(log)


def test_other_initialisers_of_mmengine_work():
    backbone = small(init_cfg=dict(type='Constant', layer='Linear', val=0.25))
    backbone.init_weights()
    assert torch.equal(backbone.stages[0].blocks[0].ffn.fc1.weight, torch.full((48, 16), 0.25))
