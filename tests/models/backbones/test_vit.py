import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmsec.models import ViT
from mmsec.models.inspection import token_clusters
from mmsec.models.layers.vit import Attention, WindowAttention
from mmsec.ops import apply_rotary, coordinate_table, token_centers
from tests.conftest import DATA
from tests.models.backbones.small import assert_close, outputs_and_gradients, with_large_weights
from tools.analysis_tools import reference

ARCH = dict(embed_dims=48, depth=4, num_heads=3, mlp_ratio=4)
MEASURED = dict(arch=ARCH, patch_size=8, img_size=64)
TINY = dict(arch=dict(embed_dims=16, depth=4, num_heads=2, mlp_ratio=2), patch_size=4, img_size=24)
DINOV3 = dict(TINY, arch=TINY['arch'] | dict(rotary=True, num_registers=2, swiglu=True))
CLUSTERS = dict(grouping=dict(type='SemanticGrouping'), num_clusters=3)


@pytest.fixture(scope='module')
def measured():
    return {name: torch.from_numpy(value) for name, value in np.load(DATA / 'vit_merge_official.npz').items()}


def official(**options):
    checkpoint = str(DATA / 'vit_merge_official.pth')
    backbone = ViT(**MEASURED | options, init_cfg=dict(type='Pretrained', checkpoint=checkpoint))
    backbone.init_weights()
    return backbone.double().eval()


def tiny(**options):
    return with_large_weights(ViT(**TINY | options)).double().eval()


@pytest.mark.parametrize('options', [{}, dict(num_registers=2, layer_scale=0.5), dict(with_cls_token=False)], ids=str)
def test_in_clusters_it_equals_the_reference_with_gradients(options):
    backbone = tiny(**CLUSTERS | options | dict(num_clusters=5, out_indices=(1, 3), out_norm=False))
    images = torch.randn(2, 3, 27, 33, dtype=torch.float64)
    wanted = outputs_and_gradients(backbone, images, lambda x: reference.vit_forward(backbone, x, 5))
    assert_close(outputs_and_gradients(backbone, images), wanted, smallest=1e-10)


@torch.no_grad()
def test_the_map_is_that_of_the_public_code(measured):
    (found,) = official()(measured['image'].double())
    wanted = measured['plain'][:, 1:].mT.unflatten(2, (8, 8))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ('name', 'merging'),
    [
        ('tome', dict(type='ToMe', r=8, proportional_attention=False)),
        ('tome_prop', dict(type='ToMe', r=8)),
        ('pitome_deit', dict(type='PiToMe', ratio=0.85)),
        ('pitome_mae', dict(type='PiToMe', ratio=0.85, order='mae')),
    ],
)
@torch.no_grad()
def test_merged_tokens_sizes_and_sources_are_those_of_the_public_code(measured, name, merging):
    backbone, image = official(merging=merging), measured['image'].double()
    behind = list(backbone.tokens(image))
    tokens = behind[-1]
    torch.testing.assert_close(backbone.out_norms['3'](tokens.x), measured[f'{name}_tokens'], atol=1e-6, rtol=0)
    torch.testing.assert_close(tokens.sizes, measured[f'{name}_size'][..., 0], atol=1e-6, rtol=0, check_dtype=False)
    sources = F.one_hot(tokens.merging.assignment, tokens.merging.num_merged).mT
    assert torch.equal(sources, measured[f'{name}_source'].long())
    assert [each.x.shape[1] for each in behind] == measured[f'{name}_lengths'].tolist()
    (found,) = backbone(image)
    copied = measured[f'{name}_tokens'].gather(1, tokens.merging.assignment[..., None].expand(-1, -1, 48))
    torch.testing.assert_close(found, copied[:, 1:].mT.unflatten(2, (8, 8)), atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_map_before_the_end_is_rebuilt_of_the_tokens_there_are_behind_its_block():
    x = torch.randn(1, 3, 24, 32, dtype=torch.float64)
    for merging, lengths in (
        (dict(type='ToMe', r=5), [43, 38, 33, 28]),
        (dict(type='PiToMe', ratio=0.75), [36, 27, 21, 16]),
        (dict(type='ToMeSD', ratio=0.5), [48, 48, 48, 48]),
    ):
        maps = tiny(merging=merging, out_indices=(0, 1, 2, 3))(x)
        assert [len(m[0].flatten(1).mT.unique(dim=0)) for m in maps] == lengths
        assert all(m.shape == (1, 16, 6, 8) for m in maps)


@torch.no_grad()
def test_expedit_runs_the_later_blocks_on_its_small_grid_also_in_windows_and_clusters():
    x = torch.randn(2, 3, 24, 32, dtype=torch.float64)
    merging = dict(type='Expedit', after_block=2, size=0.5)
    for options in ({}, dict(window_size=2), CLUSTERS):
        backbone = tiny(merging=merging, global_blocks=(3,) if options else None, **options)
        behind = list(backbone.tokens(x))
        assert [each.x.shape[1] for each in behind] == [49, 13, 13, 13]
        assert [each.grid for each in behind] == [(6, 8), (3, 4), (3, 4), (3, 4)]
        assert backbone(x)[0].shape == (2, 16, 6, 8)
        without = tiny(global_blocks=(3,) if options else None, **options)
        without.load_state_dict(backbone.state_dict())
        assert torch.equal(next(without.tokens(x)).x, behind[0].x)


@torch.no_grad()
def test_tomesd_merges_for_the_attention_alone():
    backbone, x = tiny(merging=dict(type='ToMeSD', ratio=0.5)), torch.randn(1, 3, 24, 32, dtype=torch.float64)
    block, tokens = backbone.blocks[0], backbone.patch_embed(x)
    seen = []
    block.attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    attended, _ = block.attend(tokens)
    (merging,) = backbone.mergings(x)[:1]
    assert merging.num_merged == seen[0].shape[1] == 25
    torch.testing.assert_close(attended, merging.unmerge(merging.merge(attended)))
    torch.testing.assert_close(seen[0], merging.merge(block.norm1(tokens.x)))


@pytest.mark.parametrize(
    'merging', [dict(type='ToMe', r=5), dict(type='PiToMe', ratio=0.75), dict(type='Expedit', after_block=2, size=0.5)]
)
@torch.no_grad()
def test_merged_tokens_lie_where_their_sources_do_on_average(merging):
    backbone, x = tiny(**DINOV3, merging=merging), torch.randn(2, 3, 24, 32, dtype=torch.float64)
    where = F.pad(token_centers(6, 8, x.dtype, x.device), (0, 0, 3, 0)).expand(2, -1, -1)  # three protected tokens
    for tokens in backbone.tokens(x):
        if tokens.grid:  # in raster order, whatever became one
            wanted = F.pad(token_centers(*tokens.grid, x.dtype, x.device), (0, 0, 3, 0))
        else:
            of = F.one_hot(tokens.merging.assignment, tokens.x.shape[1]).double().mT  # (B, T', T)
            wanted = of @ where / of.sum(-1, keepdim=True)
        torch.testing.assert_close(tokens.places.coordinates, wanted)
        torch.testing.assert_close(tokens.rotary, coordinate_table(wanted, tokens.places.periods))


@torch.no_grad()
def test_rotary_positions_are_rescaled_by_one_factor_in_training_alone():
    backbone, x = tiny(**DINOV3, rotary_rescale=2.0), torch.randn(2, 3, 24, 32, dtype=torch.float64)
    plain = backbone.patch_embed(x).places
    backbone.train()
    factors = torch.stack([(plain.periods / backbone.patch_embed(x).places.periods) for _ in range(40)])
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert 0.5 <= factors.min() < 0.8 < 1.25 < factors.max() <= 2
    assert torch.equal(tiny(**DINOV3).train().patch_embed(x).places.periods, plain.periods)
    frozen = tiny(**DINOV3, rotary_rescale=2.0, frozen_stages=0).train()
    assert torch.equal(frozen.patch_embed(x).places.periods, plain.periods)


def test_mergings_say_what_became_one_behind_each_block():
    backbone, x = tiny(merging=dict(type='PiToMe', ratio=0.75)), torch.randn(1, 3, 24, 32, dtype=torch.float64)
    assert [each.num_merged for each in backbone.mergings(x)] == [37, 28, 22, 17]
    assert tiny().mergings(x) == tiny(merging=dict()).mergings(x) == [None] * 4  # {}: a command line can fill it in


@pytest.mark.parametrize('size', [(1, 1), (24, 24), (30, 17)])
@torch.no_grad()
def test_any_size_is_one_whose_patches_are_filled_up_with_zeros(size):
    backbone = tiny(num_registers=2)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    height, width = (-(-side // 4) * 4 for side in size)
    (found,) = backbone(x)
    assert found.shape == (2, 16, height // 4, width // 4)
    torch.testing.assert_close(found, backbone(F.pad(x, (0, width - size[1], 0, height - size[0])))[0])


@torch.no_grad()
def test_class_and_register_tokens_are_kept_or_dropped():
    x = torch.randn(1, 3, 24, 24, dtype=torch.float64)
    for options, count in ((dict(), 1), (dict(num_registers=4), 5), (dict(with_cls_token=False), 0)):
        backbone = tiny(**options)
        tokens = backbone.patch_embed(x)
        assert tokens.protected == count
        assert tokens.x.shape == (1, count + 36, 16)
        assert backbone(x)[0].shape == (1, 16, 6, 6)


@pytest.mark.parametrize('rotary', [False, True])
@pytest.mark.parametrize('protected', [0, 2])
@pytest.mark.parametrize('grid', [(6, 8), (5, 7), (2, 1)])
@torch.no_grad()
def test_windows_equal_their_definition(grid, protected, rotary):
    attention = WindowAttention(16, 2, window_size=4).double()
    x = torch.randn(2, protected + grid[0] * grid[1], 16, dtype=torch.float64)
    angles = torch.rand(x.shape[1], 4, dtype=torch.float64)
    table = torch.stack([angles.cos(), angles.sin()], -1) if rotary else None
    out, keys = attention(x, protected, grid, rotary=table)
    padded = F.pad(x[:, protected:].unflatten(1, grid), (0, 0, 0, -grid[1] % 4, 0, -grid[0] % 4))  # (B, H, W, C)
    front, (q, k, v) = x[:, :protected], attention.project(padded.flatten(1, 2)).unbind(2)
    _, front_k, front_v = attention.project(front).unbind(2)
    q, k, v = (each.unflatten(1, padded.shape[1:3]) for each in (q, k, v))
    if rotary:  # what fills up is not rotated
        front_k = apply_rotary(front_k, table[:protected])
        for each in (q, k):
            inside = each[:, : grid[0], : grid[1]]
            inside.copy_(apply_rotary(inside.flatten(1, 2), table[protected:]).unflatten(1, grid))
    wanted = torch.zeros_like(q)
    for top in range(0, padded.shape[1], 4):
        for left in range(0, padded.shape[2], 4):
            window = slice(None), slice(top, top + 4), slice(left, left + 4)
            of = [torch.cat([a, b[window].flatten(1, 2)], 1).transpose(1, 2) for a, b in ((front_k, k), (front_v, v))]
            attended = F.scaled_dot_product_attention(q[window].flatten(1, 2).transpose(1, 2), *of)
            wanted[window] = attended.transpose(1, 2).unflatten(1, (4, 4))
    wanted = wanted[:, : grid[0], : grid[1]].flatten(1, 2).flatten(2)
    torch.testing.assert_close(out[:, protected:], attention.proj(wanted))
    torch.testing.assert_close(keys, attention.project(x)[:, :, 1])


@pytest.mark.parametrize('kind', [TINY, DINOV3])
@torch.no_grad()
def test_one_window_or_one_cluster_for_all_is_attention_of_all(kind):
    x = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    plain = tiny(**kind)
    for options in (dict(window_size=6, global_blocks=()), CLUSTERS | dict(num_clusters=1)):
        other = tiny(**kind | options)
        other.load_state_dict(plain.state_dict())
        torch.testing.assert_close(other(x)[0], plain(x)[0])


def test_blocks_have_the_attention_that_options_name():
    def kinds(**options):
        return [block.attn.grouping or type(block.attn) for block in tiny(**options).blocks]

    assert kinds() == [Attention] * 4
    assert kinds(window_size=3, global_blocks=(1,)) == [WindowAttention, Attention, WindowAttention, WindowAttention]
    assert [kind.block for kind in kinds(**CLUSTERS)] == [0, 1, 2, 3]
    assert [kind.block for kind in kinds(**CLUSTERS, global_blocks=(1, 3))[::2]] == [0, 2]
    assert kinds(**CLUSTERS, global_blocks=(1, 3))[1::2] == [Attention] * 2
    with torch.device('meta'):
        vit = ViT('large', window_size=14)
    assert sum(p.numel() for p in vit.parameters()) == 303_301_632 - 1024  # less the position of the class token
    assert [i for i, block in enumerate(vit.blocks) if type(block.attn) is Attention] == [5, 11, 17, 23]


@pytest.mark.parametrize(
    'options',
    [
        dict(merging=dict(type='PiToMe', ratio=0.8), layer_scale=0.1),
        dict(merging=dict(type='Expedit', after_block=1, size=0.5), window_size=2, global_blocks=(3,)),
        dict(merging=dict(type='ToMeSD', ratio=0.5), num_registers=2),
    ],
    ids=str,
)
def test_every_parameter_gets_the_same_gradient_with_and_without_checkpointing(options):
    results, x = [], torch.randn(2, 3, 26, 31, dtype=torch.float64)
    for with_cp in (False, True):
        torch.manual_seed(1)
        backbone = tiny(with_cp=with_cp, out_indices=(1, 3), **options).train()
        torch.manual_seed(2)  # drop path
        results.append(outputs_and_gradients(backbone, x))
        assert all(each.any() for each in results[-1])
    assert_close(*results)


def test_one_can_look_at_windows_clusters_and_merged_tokens():
    x = torch.randn(2, 3, 24, 20, dtype=torch.float64)
    (windows,) = token_clusters(tiny(window_size=4, global_blocks=()), x, [1])
    assert windows.ids.shape == (2, 1, 6, 5)
    assert windows.ids[0, 0, [0, 3, 4, 0, 5], [0, 3, 0, 4, 4]].tolist() == [0, 0, 2, 1, 3]
    (clusters,) = token_clusters(tiny(**CLUSTERS), x, [1])
    assert clusters.ids.shape == clusters.scores.shape == (2, 2, 6, 5)
    assert clusters.ids.unique().tolist() == [0, 1, 2]
    for merging in (dict(type='ToMe'), dict(type='ToMeSD', ratio=0.5), dict(type='Expedit', after_block=1, size=0.5)):
        backbone = tiny(merging=merging)
        (found,) = token_clusters(backbone, x, [2])
        sources = backbone.mergings(x)[2].assignment[:, 1:].unflatten(1, (6, 5))
        for ids, wanted in zip(found.ids[:, 0], sources, strict=True):
            assert ids.unique().tolist() == list(range(len(wanted.unique())))
            together = ids.flatten()[:, None] == ids.flatten()
            assert torch.equal(together, wanted.flatten()[:, None] == wanted.flatten())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch=TINY['arch'] | dict(num_heads=3)), 'embed_dims must be a multiple of num_heads'),
        (dict(patch_size=0), 'patch_size must be at least 1, got 0'),
        (dict(arch=DINOV3['arch'] | dict(embed_dims=12)), 'rotary positions need heads of a multiple of 4 .* 12 / 2'),
        (dict(arch=DINOV3['arch'] | dict(gated=True)), "must have the keys .* and may have .*'rotary'.* got .*'gated'"),
        (dict(arch='dinov3'), "arch must be one of .*'dinov3-base'.* got 'dinov3'"),
        (dict(rotary_rescale=2.0), 'rotary_rescale=2.0 needs rotary positions, as an arch of DINOv3 has'),
        (DINOV3 | dict(rotary_rescale=0.5), 'rotary_rescale must be at least 1, got 0.5'),
        (dict(num_registers=-1), 'num_registers must be at least 0, got -1'),
        (dict(window_size=3, global_blocks=(4,)), r'global_blocks must be in \[0, 3\], got \(4,\)'),
        (dict(global_blocks=(1,)), 'global_blocks need window_size or grouping'),
        (dict(num_clusters=4), 'grouping and num_clusters need each other'),
        (dict(window_size=3, **CLUSTERS), 'window_size and grouping exclude each other'),
        (dict(out_indices=3), 'out_indices must be a list of stages, got 3'),
        (dict(merging='ToMe'), "merging must be a dict with a type, one of .*ToMe.*, got 'ToMe'"),
        (dict(merging=dict(type='Expedit', after_block=4, size=0.5)), 'must be below the number of blocks, 4, got 4'),
        (dict(merging=dict(type='ToMe', r=(1, 1, 1))), 'one number for each of 4 blocks, got 3'),
        (dict(merging=dict(type='ToMee')), "type of merging must be one of .*, got 'ToMee'"),
        (
            dict(merging=dict(type='PiToMe'), window_size=3),
            'leaves no grid for windows: set window_size=0, or merge by',
        ),
        (dict(merging=dict(type='ToMe'), **CLUSTERS), 'leaves no grid for a grouping: set grouping=None, or merge by'),
    ],
)
def test_options_that_cannot_be_used_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_positions_of_another_size_are_resized_whatever_loads_them(tmp_path):
    from mmengine.runner.checkpoint import load_checkpoint

    trained, path = tiny(img_size=24), str(tmp_path / 'trained.pth')
    torch.save({'state_dict': trained.state_dict()}, path)
    wanted = F.interpolate(trained.patch_embed.pos_embed, size=(8, 12), mode='bicubic')
    for load in (
        lambda backbone: load_checkpoint(backbone, path),  # as load_from does: what does not fit would be left out
        lambda backbone: backbone.load_state_dict(trained.state_dict()),
    ):
        larger = tiny(img_size=(32, 48))
        load(larger)
        torch.testing.assert_close(larger.patch_embed.pos_embed, wanted)
