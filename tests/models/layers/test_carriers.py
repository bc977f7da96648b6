"""Carriers inside a backbone; what holds for every backbone, a variant with carriers in small.py has to keep, too."""

import pytest
import torch

from mmsec.errors import InputError
from mmsec.models import SecViT
from mmsec.models.checkpoints.loading import load_pretrained
from tests.conftest import OFFICIAL, SMALL_ARCH, each_grouping
from tests.models.backbones.small import with_large_weights


def small(**options) -> SecViT:
    return SecViT(SMALL_ARCH, drop_path_rate=0.0, **options)


def gates(backbone: SecViT) -> dict[str, torch.Tensor]:
    return {name: p for name, p in backbone.named_parameters() if name.endswith('.carriers.gate')}


@each_grouping
@pytest.mark.parametrize('clusters', [dict(num_clusters=(7, 5, 3, 1)), dict(cluster_size=20)], ids=str)
def test_gates_start_where_maps_are_those_without_bit_for_bit_and_learn_at_once(grouping, clusters):
    plain = with_large_weights(small(grouping=grouping, **clusters)).eval()
    backbone = small(grouping=grouping, carriers=2, **clusters).eval()
    backbone.load_state_dict(plain.state_dict(), strict=False)
    for size in ((1, 1), (37, 53)):
        x = torch.randn(2, 3, *size)
        maps = backbone(x)
        assert all(torch.equal(*each) for each in zip(maps, plain(x), strict=True))
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert len(gates(backbone)) == (5 if 'num_clusters' in clusters else 6)  # a block of one cluster needs none
    assert all(gate.grad.all() for gate in gates(backbone).values())
    for gate in gates(backbone).values():
        torch.nn.init.ones_(gate)
    assert not any(torch.equal(*each) for each in zip(backbone(x), plain(x), strict=True))


def test_a_token_far_away_is_felt_in_the_first_block():
    backbone = with_large_weights(
        SecViT(SMALL_ARCH, carriers=1, out_indices=(0,), grouping=dict(type='WindowGrouping'))
    )
    block, x = backbone.stages[0].blocks[0].attn.double(), torch.randn(1, 16, 16, 16, dtype=torch.float64)
    rotary = backbone.stages[0].rotary(16, 16, x)
    other = x.clone()
    other[0, -1, -1] += 1
    differs = (block(x, rotary) - block(other, rotary)).abs().amax(-1)
    assert (differs > 0).all()
    block.carriers.gate.data.zero_()
    assert (block(x, rotary) == block(other, rotary)).all(-1).sum() > 200


def test_a_published_file_loads_and_says_that_gates_start_at_0(log):
    plain, backbone = small(), small(carriers=2)
    with torch.no_grad():
        for gate in gates(backbone).values():
            gate.fill_(1.0)  # whatever was there
    for each in (plain, backbone):
        load_pretrained(each.eval(), OFFICIAL)
    x = torch.randn(1, 3, 64, 96)
    assert all(torch.equal(*each) for each in zip(backbone(x), plain(x), strict=True))
    said = 'SecViT: not in the checkpoint, start at 0, which adds nothing: stages.0.blocks.0.attn.carriers.gate, '
    assert sum(said in each for each in log) == 1


def test_a_file_with_carriers_is_taken_whole_or_not_at_all(tmp_path):
    trained, file = with_large_weights(small(carriers=2)), tmp_path / 'trained.pth'
    torch.save(trained.state_dict(), file)
    fresh = small(carriers=2)
    load_pretrained(fresh, file)
    assert all(torch.equal(gate, gates(trained)[name]) for name, gate in gates(fresh).items())
    with pytest.raises(InputError, match=r'Weights 10 unknown: stages\.0\.blocks\.0\.attn\.carriers\.gate'):
        load_pretrained(small(), file)
    state = trained.state_dict()
    del state['stages.1.blocks.1.attn.carriers.gate']
    torch.save(state, file)
    with pytest.raises(InputError, match=r'Weights 1 missing: stages\.1\.blocks\.1\.attn\.carriers\.gate'):
        load_pretrained(fresh, file)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        *((dict(carriers=each), rf'carriers must be a whole number .* got {each!r}$') for each in (-1, 1.5, '2', True)),
        (dict(carriers=None), r'carriers must be a whole number of at least 0, got None$'),
        (dict(carriers=2, num_clusters=(1, 1, [1, 1], 1)), r'carriers=2 need blocks of several clusters, got num_cl'),
        (dict(carriers=2, num_clusters=(1, 1, 2, 1), out_indices=(1,)), 'need blocks of several clusters'),
    ],
)
def test_carriers_that_cannot_be_are_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        small(**options)
    assert '\n' not in str(error.value)
