import re

import pytest
import torch
from mmengine.model import PretrainedInit

from mmsec.errors import InputError
from mmsec.models import SecViT
from mmsec.models.checkpoints.loading import load_pretrained, read_pretrained
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


def test_a_bare_state_dict_loads(published, tmp_path):
    backbone = small()
    load_pretrained(backbone, saved(published['model'], tmp_path))
    assert torch.equal(backbone.patch_embed.proj[0].weight, published['model']['patch_embed.proj.0.weight'])


def test_a_published_file_says_what_is_left_out_and_what_is_new(log):
    backbone = small(out_indices=(1,))
    load_pretrained(backbone, OFFICIAL)
    said = '\n'.join(log)
    assert re.search(r'not used from the checkpoint: .*layers\.0\.RoPE\.angle.*stages\.3\.blocks', said)
    assert 'head.weight' in said
    assert 'start as identity: out_norms.1.weight' in said
    assert torch.equal(backbone.out_norms['1'].weight, torch.ones(32))
    assert not backbone.out_norms['1'].bias.any()


def test_a_checkpoint_of_another_size_is_an_error():
    with pytest.raises(InputError, match=r'another size.*missing: .*of another shape: patch_embed') as error:
        load_pretrained(SecViT('tiny'), OFFICIAL)
    assert 'patch_embed.proj.0.weight: (8, 3, 3, 3) in the file, (32, 3, 3, 3) in the model' in str(error.value)


def test_a_missing_file_says_where_to_get_it(tmp_path):
    path = tmp_path / 'secvit_tiny.pth'
    options = r'--cfg-options model\.backbone\.init_cfg=None model\.backbone\.norm_eval=False'
    with pytest.raises(InputError, match=rf'{path}.* not found.*github\.com/qhfan/SecViT.*{options}'):
        read_pretrained(path, SecViT.published)
    with pytest.raises(InputError, match=r"checkpoint '.*' not found$"):
        read_pretrained(path, None)


def test_init_cfg_loads_and_refuses_keys_it_does_not_know():
    backbone = small(init_cfg=dict(type='Pretrained', checkpoint=str(OFFICIAL)))
    backbone.init_weights()
    assert not backbone.patch_embed.proj[1].running_mean.eq(0).all()
    for keys in (dict(checkpoint=str(OFFICIAL), strict=False), {}):
        with pytest.raises(ValueError, match='init_cfg keys type, checkpoint, prefix and map_location, got '):
            small(init_cfg=dict(type='Pretrained', **keys)).init_weights()


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
        (dict(), None),
    ],
)
def test_random_weights_that_stay_as_they_are_are_named(log, options, named, init_cfg):
    small(init_cfg=init_cfg, **options).init_weights()
    said = '\n'.join(log)
    assert ('SecViT starts from random weights' in said) == bool(named)
    if named:
        assert f'and {named} keeps what was never trained as it is' in said
        assert ('set norm_eval=False' in said) == ('norm_eval' in named)
    log.clear()
    small(init_cfg=dict(type='Pretrained', checkpoint=str(OFFICIAL)), **options).init_weights()
    assert 'random weights' not in '\n'.join(log)
