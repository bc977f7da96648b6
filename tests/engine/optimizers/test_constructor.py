"""Few parameter groups, and the same steps."""

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from mmsec import compat
from mmsec.errors import InputError
from tests.conftest import shrink_model
from tests.test_configs import CONFIGS, load

FUSED = compat.FUSED_ON_CPU or torch.cuda.is_available()
PARAMWISE = dict(
    norm_decay_mult=0.0,
    bias_lr_mult=2.0,
    flat_decay_mult=0.5,
    custom_keys={'head': dict(lr_mult=10.0, decay_mult=0.1)},
)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(2, 8))
    return nn.ModuleDict({'body': body, 'head': nn.Conv2d(8, 2, 1)})


def wrapper_of(model: nn.Module, constructor: str, paramwise: dict, **optimizer):
    settings = dict(type='AdamW', lr=1e-2, weight_decay=0.05) | optimizer
    return build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor=constructor,
            optimizer=settings,
            paramwise_cfg=paramwise,
            clip_grad=dict(max_norm=1e6),
        ),
    )


@pytest.mark.parametrize('name', CONFIGS, ids=str)
def test_a_shipped_config_has_as_many_groups_as_settings(name):
    cfg = load(name)
    shrink_model(cfg)
    cfg.merge_from_dict({'norm_cfg': dict(type='BN')})
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    optimizer = cfg.optim_wrapper.optimizer
    settings = sorted((group['lr'], group['weight_decay']) for group in groups)
    if 'decay_rate' in cfg.optim_wrapper.paramwise_cfg:
        assert len(set(settings)) == len(settings)
        assert {decay for _, decay in settings} == {0.0, optimizer.weight_decay}
        rates = {rate for rate, _ in settings}
        assert len(rates) > 2
        assert max(rates) == optimizer.lr
        assert not any(each.get('eta_min') for each in cfg.param_scheduler)  # it would raise those of early layers
    else:
        keys = cfg.optim_wrapper.paramwise_cfg.get('custom_keys', {}).values()
        factors = {1.0, *(key['lr_mult'] for key in keys if 'lr_mult' in key)}
        decays = (0.0, optimizer.weight_decay)[name.stem.split('_')[2] == 'linear' :]  # which learns no norm
        wanted = ((optimizer.lr * factor, decay) for factor in factors for decay in decays)
        assert settings == sorted(wanted)
    assert {group.get('fused') for group in groups} == {FUSED or None}  # left out where there is none
    assert sum(len(group['params']) for group in groups) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize('fused', [False, *[True] * FUSED])
def test_merged_groups_step_as_single_ones_do(fused):
    """Bit for bit, where clipping does not act: it sums the norms of the gradients in the order of the groups."""
    images = torch.randn(2, 3, 9, 9)
    weights = {}
    for constructor in ('DefaultOptimWrapperConstructor', 'mmsec.MergedOptimWrapperConstructor'):
        model = small_model()
        wrapper = wrapper_of(model, constructor, copy.deepcopy(PARAMWISE), fused=fused)
        settings = {(group['lr'], group['weight_decay']) for group in wrapper.optimizer.param_groups}
        for _ in range(5):
            wrapper.update_params(model['head'](model['body'](images)).square().mean())
        weights[constructor] = [*model.state_dict().values()], len(wrapper.optimizer.param_groups)
    (single, many), (merged, few) = weights.values()
    assert (many, few, len(settings)) == (10, 4, 4)
    for a, b in zip(single, merged, strict=True):
        assert torch.equal(a, b)


def test_norms_under_a_custom_key_are_decayed_only_where_it_says_so():
    decays = {}
    for custom in (dict(lr_mult=0.1), dict(lr_mult=0.1, decay_mult=1.0)):
        model = small_model()
        paramwise = dict(norm_decay_mult=0.0, custom_keys=dict(body=custom))
        groups = wrapper_of(model, 'mmsec.MergedOptimWrapperConstructor', paramwise).optimizer.param_groups
        (norm,) = (group for group in groups if any(p is model['body'][1].weight for p in group['params']))
        (conv,) = (group for group in groups if any(p is model['body'][0].weight for p in group['params']))
        assert norm['lr'] == conv['lr'] == 1e-3
        decays[len(custom)] = norm['weight_decay'], conv['weight_decay']
    assert decays == {1: (0.0, 0.05), 2: (0.05, 0.05)}


def test_an_option_that_nothing_would_read_is_named():
    message = 'paramwise_cfg has no option norm_decay_mul under mmsec.Merged.*; it has .*norm_decay_mult'
    with pytest.raises(InputError, match=message):
        wrapper_of(small_model(), 'mmsec.MergedOptimWrapperConstructor', dict(norm_decay_mul=0.0))


def test_a_shared_parameter_is_not_stepped_twice():
    model = small_model()
    model['again'] = nn.Conv2d(8, 2, 1)
    model['again'].weight = model['head'].weight
    with pytest.raises(InputError, match=r'a parameter of shape .* in two places.*bypass_duplicate=True'):
        wrapper_of(model, 'mmsec.MergedOptimWrapperConstructor', dict(norm_decay_mult=0.0))
    wrapper_of(model, 'mmsec.MergedOptimWrapperConstructor', dict(norm_decay_mult=0.0, bypass_duplicate=True))
