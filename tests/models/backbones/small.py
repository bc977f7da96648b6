"""A small variant of every backbone: a new one adds itself here, and nowhere else; and how two of them compare."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mmsec import compat
from mmsec.models.backbones.base import Backbone
from mmsec.registry import MODELS
from tests.conftest import SMALL_ARCH, SMALL_CLUSTR


class Measured(NamedTuple):
    """Published weights of a small size and what the public code made of some images, both in ``tests/data``."""

    options: dict  # of the backbone that the weights fit
    weights: str
    outputs: str
    maps: dict[str, tuple[str, ...]]  # to the name of each image in outputs the names of its maps, stage by stage


class Small(NamedTuple):
    """A variant that every contract builds: as few and narrow layers as show what is particular to it."""

    type: str
    options: dict  # all stages in out_indices, and drop path at a rate that shows
    channels: tuple[int, ...]  # of each stage's map
    measured: Measured | None = None
    one_graph: bool = True  # one compiled graph serves every image size; where not, each size is compiled anew
    inside: str = ''  # the option that holds another backbone, which takes most options

    def config(self, **options: object) -> dict:
        """The variant with further options, as a registry takes it."""
        config = copy.deepcopy(dict(type=f'mmsec.{self.type}', **self.options))
        for name, value in options.items():
            part = config if name == 'init_cfg' or not self.inside else config[self.inside]
            part[name] = value
        return config


_SECVIT = dict(
    arch=dict(embed_dims=(16, 32), depths=(1, 1), num_heads=(1, 2), mlp_ratio=1, layer_scale=(False, True)),
    out_indices=(0, 1),
    drop_path_rate=0.3,
)

_CLUSTR = dict(
    arch=dict(embed_dims=(16, 32), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(2, 2), sr_ratios=(4, 1)),
    out_indices=(0, 1),
    drop_path_rate=0.3,
)
_CLUSTR_MEASURED = Measured(
    options=dict(arch=SMALL_CLUSTR),
    weights='clustr_official_small.pth',
    outputs='clustr_official_small.npz',
    maps={f'image_{size}': tuple(f'map{i}_{size}' for i in range(4)) for size in ('64x96', '72x100')},
)
_ONE_REGION = dict(arch=SMALL_CLUSTR, region_size=18 * 25)  # as many tokens as the first map has
_VIT = dict(
    arch=dict(embed_dims=16, depth=2, num_heads=2, mlp_ratio=2),
    patch_size=8,
    img_size=48,
    out_indices=(0, 1),
    drop_path_rate=0.3,
)
_DINOV3 = _VIT | dict(
    arch=_VIT['arch'] | dict(rotary=True, swiglu=True, norm_eps=1e-5, num_registers=2, layer_scale=0.5),
    rotary_rescale=2.0,
)
_SWIN = dict(
    type='mmdet.SwinTransformer',
    embed_dims=16,
    window_size=3,
    mlp_ratio=1,
    depths=(1, 2),
    num_heads=(1, 2),
    strides=(4, 2),
    out_indices=(0, 1),
    drop_path_rate=0.3,
)

SMALL = {
    'SecViT': Small(
        'SecViT',
        _SECVIT | dict(num_clusters=(8, 2)),
        channels=(16, 32),
        measured=Measured(
            options=dict(arch=SMALL_ARCH, out_norm=False),
            weights='secvit_official_tiny.pth',
            outputs='secvit_official_tiny.npz',
            maps={f'input_{size}': tuple(f'stage{i}_{size}' for i in range(1, 5)) for size in ('64x96', '128x160')},
        ),
    ),
    'SecViT with clusters of 20 tokens': Small('SecViT', _SECVIT | dict(cluster_size=20), channels=(16, 32)),
    'SecViT with carriers': Small('SecViT', _SECVIT | dict(cluster_size=20, carriers=3), channels=(16, 32)),
    'ClusTR': Small('ClusTR', _CLUSTR, channels=(16, 32), measured=_CLUSTR_MEASURED),
    'ClusTR in regions': Small(
        'ClusTR',
        _CLUSTR | dict(region_size=128),
        channels=(16, 32),
        measured=_CLUSTR_MEASURED._replace(options=_ONE_REGION),
    ),
    'ViT': Small('ViT', _VIT | dict(num_registers=2, layer_scale=0.5), channels=(16, 16)),
    'ViT in windows': Small('ViT', _VIT | dict(window_size=3, global_blocks=(1,)), channels=(16, 16), one_graph=False),
    'ViT in clusters': Small(
        'ViT', _VIT | dict(grouping=dict(type='SemanticGrouping'), num_clusters=3), channels=(16, 16), one_graph=False
    ),
    'DINOv3': Small('ViT', _DINOV3, channels=(16, 16)),
    'DINOv3 in windows': Small(
        'ViT', _DINOV3 | dict(window_size=3, global_blocks=(1,)), channels=(16, 16), one_graph=False
    ),
    'ViT with ToMe': Small('ViT', _VIT | dict(merging=dict(type='ToMe', r=4)), channels=(16, 16)),
    'ViT with PiToMe': Small(
        'ViT', _VIT | dict(merging=dict(type='PiToMe', ratio=0.8)), channels=(16, 16), one_graph=False
    ),
    # Its patch embedding and merging, which are the host's, pad in another way for each remainder of the size.
    'Swin in clusters': Small(
        'ClusteredSwin', dict(backbone=_SWIN), channels=(16, 32), one_graph=False, inside='backbone'
    ),
}


def with_large_weights(backbone: nn.Module) -> nn.Module:
    """The backbone with random weights large enough for each of them to matter."""
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return backbone


def build(small: Small, **options) -> Backbone:
    """The variant with further options and random weights."""
    return with_large_weights(MODELS.build(small.config(**options)))


def outputs_and_gradients(backbone: nn.Module, x: Tensor, forward=None) -> list[Tensor]:
    """The maps of a backbone, or of another way to compute them, and the gradients of image and parameters."""
    x = x.clone().requires_grad_()
    maps = (forward or backbone)(x)
    loss = sum((m * torch.linspace(-1, 1, m.numel(), dtype=m.dtype).view_as(m)).sum() for m in maps)
    learnt = [p for p in backbone.parameters() if p.requires_grad]
    return [*maps, *torch.autograd.grad(loss, [x, *learnt])]


def assert_close(results: list[Tensor], wanted: list[Tensor], smallest: float = 1e-12) -> None:
    for ours, theirs in zip(results, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-9 * theirs.norm() + smallest


def autocast(dtype: torch.dtype) -> AbstractContextManager:
    """Autocast on the CPU; nothing for float32. The test is skipped where this torch has it for bfloat16 alone."""
    if dtype == torch.float32:
        return nullcontext()
    if dtype != torch.bfloat16 and not compat.OPERATORS:
        pytest.skip(f'no autocast to {dtype} on a CPU')
    return torch.autocast('cpu', dtype)
