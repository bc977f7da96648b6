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


def test_heads_that_are_left_out_are_counted_not_listed(tmp_path, log):
    state = {f'backbone.{key}': value for key, value in small().state_dict().items()}
    state |= {f'decode_head.convs.{i}.weight': torch.ones(1) for i in range(40)}
    state |= {f'neck.{i}.weight': torch.ones(1) for i in range(2)}
    load_pretrained(small(), saved(state, tmp_path))
    assert 'SecViT: not used from the checkpoint: decode_head (40 weights), neck.0.weight, neck.1.weight' in log


def test_a_checkpoint_of_another_size_is_an_error():
    with pytest.raises(InputError, match=r'another size.*missing: .*of another shape: patch_embed') as error:
        load_pretrained(SecViT('tiny'), OFFICIAL)
    assert 'patch_embed.proj.0.weight: (8, 3, 3, 3) in the file, (32, 3, 3, 3) in the model' in str(error.value)


def test_a_missing_file_says_where_to_get_it(tmp_path):
    path = tmp_path / 'secvit_tiny.pth'
    options = r'--cfg-options model\.backbone\.init_cfg=None model\.backbone\.norm_eval=False; docs/get_started\.md'
    with pytest.raises(InputError, match=rf'{path}.* not found.*github\.com/qhfan/SecViT.*{options}'):
        read_pretrained(path, SecViT.published)
    with pytest.raises(InputError, match=r"checkpoint '.*' not found$"):
        read_pretrained(path, None)


def test_init_cfg_loads_and_refuses_keys_it_does_not_know():
    backbone = small(init_cfg=dict(type='Pretrained', checkpoint=str(OFFICIAL)))
    backbone.init_weights()
    assert not backbone.patch_embed.proj[1].running_mean.eq(0).all()
    for keys in (dict(checkpoint=str(OFFICIAL), strict=False), {}):
        with pytest.raises(ValueError, match='init_cfg keys type, checkpoint, sha256, prefix, map_location, got '):
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


@pytest.mark.parametrize(
    ('prefix', 'inside'),
    [('backbone.', 'backbone.'), ('backbone', 'backbone.'), ('module.a.b.', 'module.a.b.'), (None, 'module.backbone.')],
)
def test_the_weights_behind_a_prefix_load(published, tmp_path, prefix, inside):
    state = {f'{inside}{key}': value for key, value in published['model'].items()} | {'neck.weight': torch.zeros(1)}
    path = str(saved({'state_dict': state}, tmp_path))
    backbone = small(init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix, map_location='cpu'))
    backbone.init_weights()
    assert torch.equal(backbone.patch_embed.proj[0].weight, published['model']['patch_embed.proj.0.weight'])
    with pytest.raises(InputError, match=r"no weight .* prefix='encoder\.'; \d+ has: \S+, \S+, \S+, \.\.\.$"):
        load_pretrained(backbone, path, prefix='encoder.')


PROJECTION = 'patch_embed.proj.0.weight'
VARIANCE = 'patch_embed.proj.1.running_var'


@pytest.mark.parametrize(
    ('key', 'change', 'reason'),
    [
        (PROJECTION, lambda x: x.mul(99).to(torch.int64), r'no floating-point numbers: \S+ \(torch\.int64\)'),
        (PROJECTION, lambda x: x > 0, r'no floating-point numbers: \S+ \(torch\.bool\)'),
        (PROJECTION, lambda x: x + 1j, 'no floating-point numbers'),
        (PROJECTION, lambda x: x / 0, 'not finite: patch_embed'),
        (PROJECTION, lambda x: x.double() * 1e300, 'not finite'),  # in the backbone's type
        (VARIANCE, lambda x: x * float('nan'), 'not finite'),
        (VARIANCE, lambda x: -x, 'negative variances: patch_embed'),
    ],
)
def test_values_that_no_training_gives_are_refused(published, tmp_path, key, change, reason):
    state = published['model']
    state[key] = change(state[key])
    with pytest.raises(InputError, match=rf"c\S+' holds values that no training gives\. Weights 1 {reason}"):
        load_pretrained(small(), saved({'model': state}, tmp_path))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_point_numbers_load(published, tmp_path, dtype):
    state = {key: value.to(dtype) for key, value in published['model'].items() if 'RoPE' not in key}
    load_pretrained(small(), saved(state, tmp_path))


def test_two_keys_for_one_weight_are_refused(published, tmp_path):
    state = published['model']
    theirs = 'layers.1.blocks.0.ffn.fc1.bias'
    for twice in (f'module.{theirs}', 'stages.1.blocks.0.ffn.fc1.bias'):
        with pytest.raises(InputError, match=r'two keys for one weight, (layers|stages)\.1\.blocks\.0\.ffn\.fc1\.bias'):
            load_pretrained(small(), saved({'model': state | {twice: state[theirs]}}, tmp_path))


def test_a_mismatch_is_counted_and_shows_three_keys_of_a_kind(published, tmp_path):
    state = {key: value for key, value in published['model'].items() if not key.startswith('layers.3')}
    state |= {f'extra.{i}': torch.zeros(1) for i in range(9)}
    state |= {
        key: value[:1] for key, value in state.items() if 'layers.1.' in key and key.endswith('norm1.norm.weight')
    }
    with pytest.raises(InputError) as error:
        load_pretrained(small(), saved(state, tmp_path))
    kinds = re.findall(r'(\d+) (missing|of another shape|unknown): ([^;]*)', str(error.value))
    assert [kind for _, kind, _ in kinds] == ['missing', 'of another shape', 'unknown']
    assert kinds[2] == ('9', 'unknown', 'extra.0, extra.1, extra.2, ...')
    assert len(kinds[0][2].split(', ')) == 4


def test_a_weight_that_cannot_be_reshaped_is_refused(published, tmp_path):
    state = published['model'] | {'layers.0.RoPE.angle': torch.tensor(1.0)}
    with pytest.raises(InputError, match=r"checkpoint '.*' does not fit this SecViT: "):
        load_pretrained(small(), saved(state, tmp_path))
