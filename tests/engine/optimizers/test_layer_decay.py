"""Rates that decay by layer or stage, in each host, and the rules of ``paramwise_cfg`` beside them."""

from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from mmsec.cli import torchvision_apart  # noqa: F401
from mmsec.engine.optimizers.layer_decay import layer_depths
from mmsec.errors import InputError
from mmsec.models import ClusTR, SecViT, ViT
from tests.conftest import run_tool
from tests.test_configs import load
from tests.test_docs import example

# The modules of each layer, or stage, from the first to the last.
TINY_STAGES = (
    'patch_embed | stages.0 | downsamples.0 stages.1 | downsamples.1 stages.2 | downsamples.2 stages.3 | out_norms'
)
CLUSTR = (  # of 1, 2, 6 and 1 blocks
    'stages.0.patch_embed | stages.0.blocks.0 | stages.0.norm stages.1.patch_embed stages.1.blocks.0 | '
    'stages.1.blocks.1 | stages.1.norm stages.2.patch_embed stages.2.blocks.0 | stages.2.blocks.1 | '
    'stages.2.blocks.2 | stages.2.blocks.3 | stages.2.blocks.4 | stages.2.blocks.5 | '
    'stages.2.norm stages.3.patch_embed stages.3.blocks.0 | stages.3.norm'
)
TINY = (  # of 2, 2, 9 and 2 blocks
    'patch_embed | stages.0.blocks.0 | stages.0.blocks.1 | downsamples.0 stages.1.blocks.0 | stages.1.blocks.1 | '
    'downsamples.1 stages.2.blocks.0 | stages.2.blocks.1 | stages.2.blocks.2 | stages.2.blocks.3 | '
    'stages.2.blocks.4 | stages.2.blocks.5 | stages.2.blocks.6 | stages.2.blocks.7 | stages.2.blocks.8 | '
    'downsamples.2 stages.3.blocks.0 | stages.3.blocks.1 | out_norms'
)
VIT = 'patch_embed | blocks.0 | blocks.1 | blocks.2 | out_norms'
SWIN = (  # of 1, 1, 2 and 1 blocks
    'patch_embed | stages.0.blocks.0 | stages.0.downsample stages.1.blocks.0 | stages.1.downsample stages.2.blocks.0 | '
    'stages.2.blocks.1 | stages.2.downsample stages.3.blocks.0 | norm0 norm1 norm2 norm3'
)
SWIN_STAGES = (
    'patch_embed | stages.0.blocks | stages.0.downsample stages.1.blocks | stages.1.downsample stages.2.blocks | '
    'stages.2.downsample stages.3.blocks | norm0 norm1 norm2 norm3'
)
CONVNEXT = (  # of 1, 1, 10 and 1 blocks: as published, three blocks of the third stage are a layer, and 12 is the last
    'downsample_layers.0 | stages.0 | downsample_layers.1 stages.1 | '
    'downsample_layers.2 stages.2.0 stages.2.1 stages.2.2 | stages.2.3 stages.2.4 stages.2.5 | '
    'stages.2.6 stages.2.7 stages.2.8 | stages.2.9 |||||| downsample_layers.3 stages.3 | norm3'
)
CONVNEXT_STAGES = (
    'downsample_layers.0 | stages.0 | downsample_layers.1 stages.1 | downsample_layers.2 stages.2 | '
    'downsample_layers.3 stages.3 | norm3'
)


class Model(nn.Module):
    """A backbone and what comes after it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(8, 4, 1)


def tiny() -> Model:
    return Model(SecViT('tiny'))


def host_backbone(host: str, name: str) -> nn.Module:
    """A small one of a host's own."""
    pytest.importorskip(f'{host}.models')
    if name == 'ConvNeXt':
        return MODELS.build(dict(type=f'{host}.ConvNeXt', arch=dict(depths=[1, 1, 10, 1], channels=[8, 16, 32, 64])))
    options = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))
    if host == 'mmpretrain':
        return MODELS.build(dict(type='mmpretrain.SwinTransformer', arch=options, out_indices=(0, 1, 2, 3)))
    return MODELS.build(dict(type=f'{host}.SwinTransformer', **options))


def check(model: nn.Module, decay_type: str, layers: str) -> None:
    """Each parameter has the layer of the one module that it belongs to, and each module is there."""
    depths = layer_depths(model, decay_type)
    wanted = dict(enumerate(f'{layers} neck'.split('|')))
    assert {count for _, count in depths.values()} == {len(wanted)}
    used = set()
    for name, (layer, _) in depths.items():
        inside = name.removeprefix('backbone.')
        of = [(i, each) for i in wanted for each in wanted[i].split() if f'{inside}.'.startswith(f'{each}.')]
        used.update(module for _, module in of)
        assert [i for i, _ in of] == [layer], name
    assert used == set(layers.replace('|', ' ').split()) | {'neck'}


def wrapper_of(model: nn.Module, paramwise: dict, **optimizer):
    settings = dict(type='AdamW', lr=1e-2, weight_decay=0.05) | optimizer
    constructor = 'mmsec.LayerDecayOptimizerConstructor'
    return build_optim_wrapper(model, dict(constructor=constructor, optimizer=settings, paramwise_cfg=paramwise))


def settings_of(model: nn.Module, paramwise: dict) -> dict[str, tuple[float, float]]:
    """To each name the rate over the base rate, and the weight decay."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = wrapper_of(model, paramwise).optimizer.param_groups
    return {names[p]: (group['lr'] / 1e-2, group['weight_decay']) for group in groups for p in group['params']}


@pytest.mark.parametrize(
    ('make', 'decay_type', 'layers'),
    [
        (lambda: SecViT('tiny'), 'layer_wise', TINY),
        (lambda: SecViT('tiny'), 'stage_wise', TINY_STAGES),
        (lambda: ClusTR('b1'), 'layer_wise', CLUSTR),
        (lambda: ClusTR('b1', out_indices=(1,)), 'layer_wise', CLUSTR.split(' stages.2')[0]),  # others not built
        (lambda: ViT('tiny', num_registers=1, layer_scale=0.1, out_indices=(0, 2)), 'layer_wise', VIT),
    ],
)
def test_layers_and_stages_of_our_backbones(make, decay_type, layers):
    with torch.device('meta'):
        check(Model(make()), decay_type, layers)


@pytest.mark.parametrize(
    ('host', 'name', 'decay_type', 'layers'),
    [
        ('mmdet', 'SwinTransformer', 'layer_wise', SWIN),
        ('mmdet', 'SwinTransformer', 'stage_wise', SWIN_STAGES),
        ('mmseg', 'SwinTransformer', 'layer_wise', SWIN),
        ('mmseg', 'SwinTransformer', 'stage_wise', SWIN_STAGES),
        ('mmpretrain', 'SwinTransformer', 'stage_wise', SWIN_STAGES),
        ('mmpretrain', 'ConvNeXt', 'layer_wise', CONVNEXT),
        ('mmpretrain', 'ConvNeXt', 'stage_wise', CONVNEXT_STAGES),
    ],
)
def test_layers_and_stages_of_backbones_of_the_hosts(host, name, decay_type, layers):
    check(Model(host_backbone(host, name)), decay_type, layers)


def test_swin_of_mmpretrain_says_its_layers_itself():
    model = Model(host_backbone('mmpretrain', 'SwinTransformer'))
    depths = layer_depths(model)
    assert depths['backbone.stages.2.blocks.1.norm1.weight'] == (4, 7)
    assert depths['neck.weight'] == (6, 7)


def test_other_rules_stay_and_equal_groups_are_one():
    paramwise = dict(
        decay_rate=0.8,
        norm_decay_mult=0.0,
        custom_keys={'neck': dict(lr_mult=10.0), 'pos.weight': dict(lr_mult=0.5, decay_mult=0.1)},
    )
    model = tiny()
    found = settings_of(model, paramwise)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, wanted in {
        'backbone.patch_embed.proj.0.weight': (0.8**16, 0.05),
        'backbone.patch_embed.proj.1.weight': (0.8**16, 0.0),  # a BatchNorm
        'backbone.stages.2.blocks.0.attn.qkv.weight': (0.8**11, 0.05),
        'backbone.stages.2.blocks.0.norm1.bias': (0.8**11, 0.0),
        'backbone.stages.2.blocks.0.pos.weight': (0.5 * 0.8**11, 0.005),
        'backbone.out_norms.3.weight': (1.0, 0.0),
        'neck.weight': (10.0, 0.05),
    }.items():
        assert found[name] == pytest.approx(wanted), name
    # 15 layers of blocks with three settings, the stem with two, and what comes after
    groups = wrapper_of(tiny(), paramwise).optimizer.param_groups
    assert len(groups) == 15 * 3 + 2 + 2
    assert len({(group['lr'], group['weight_decay']) for group in groups}) == len(groups)


def test_the_lines_of_the_docs_are_enough():
    cfg = load(Path('mmdet/secvit_t_maskrcnn.py'))
    names: dict = {}
    exec(example('docs/pretraining.md', 'optim_wrapper = dict('), names)
    cfg.merge_from_dict({'optim_wrapper': names['optim_wrapper']})
    optimizer = build_optim_wrapper(tiny(), cfg.optim_wrapper).optimizer
    assert min(group['lr'] for group in optimizer.param_groups) == pytest.approx(1e-4 * 0.8**16)


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        (dict(norm_decay_mult=0.0), r'paramwise_cfg\.decay_rate must be in \(0, 1\], got None'),
        (dict(decay_rate=1.5), r'decay_rate must be in \(0, 1\], got 1\.5'),
        (dict(decay_rate=0.8, decay_type='block_wise'), "one of .'layer_wise', 'stage_wise'., got 'block_wise'"),
        (dict(decay_rate=0.8, num_layers=12), 'no option num_layers.*Layers are counted, not given'),
        (dict(decay_rate=0.8, layer_decay_rate=0.8), 'no option layer_decay_rate'),
    ],
)
def test_options_that_cannot_be_used_are_named(paramwise, message):
    with pytest.raises(InputError, match=message):
        wrapper_of(tiny(), paramwise)


def test_a_model_whose_layers_are_not_known_is_named():
    with pytest.raises(InputError, match=r'the layers of Conv2d are not known.*get_layer_depth\(name, prefix\)'):
        wrapper_of(Model(nn.Conv2d(3, 8, 1)), dict(decay_rate=0.8))
    with pytest.raises(InputError, match='need a model with a backbone; Conv2d has none'):
        wrapper_of(nn.Conv2d(3, 8, 1), dict(decay_rate=0.8))


def test_recipes_with_a_published_decay_have_it():
    for name, rate in (('mmdet/vit/vit_b_maskrcnn.py', 0.7), ('mmseg/vit/vit_b_upernet_mae.py', 0.65)):
        wrapper = load(Path(name)).optim_wrapper
        assert (wrapper.constructor, wrapper.paramwise_cfg.decay_rate) == ('mmsec.LayerDecayOptimizerConstructor', rate)


def test_the_rates_of_a_config_can_be_printed():
    options = [
        'model.backbone.init_cfg=None',
        'optim_wrapper.constructor=mmsec.LayerDecayOptimizerConstructor',
        'optim_wrapper.paramwise_cfg.decay_rate=0.5',
        'param_scheduler.1.eta_min=1e-7',
    ]
    config = 'configs/mmseg/secvit_t_upernet.py'
    printed = run_tool('analysis_tools/print_lr_groups.py', config, '--cfg-options', *options).stdout.splitlines()
    lines = [line.split(maxsplit=3) for line in printed]
    start = next(i for i, line in enumerate(lines) if line[:1] == ['layer'])
    rows = {int(row[0]): row for row in lines[start + 1 : start + 18]}
    assert [float(rows[i][1]) for i in (0, 8, 16)] == pytest.approx([6e-5 * 0.5**16, 6e-5 * 0.5**8, 6e-5], rel=1e-3)
    assert rows[3][3] == 'backbone.stages.1.blocks.0, backbone.downsamples.0'
    assert rows[16][3] == 'backbone.out_norms, decode_head, auxiliary_head'
    counts = sum(int(row[2].replace(',', '')) for row in rows.values())
    assert counts > 13_429_440  # the backbone's, published
    assert printed[start + 18] == '34 groups; weight decay 0 or 0.01'
    assert 'param_scheduler.1: eta_min=1e-07 is above the lowest rate, 9.155e-10' in printed[start + 19]
