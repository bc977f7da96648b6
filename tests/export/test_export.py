"""Backbones leave torch as files of ONNX's own operators, and onnxruntime computes what torch does."""

import importlib.util

import onnx
import pytest
import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmsec.errors import InputError
from mmsec.export import Exported, export, verify
from mmsec.export.onnx import run
from mmsec.models.backbones.base import Backbone
from mmsec.registry import MODELS
from tests.models.backbones.small import SMALL, with_large_weights

REFUSED = {
    'ClusTR': 'ClusTR cannot be exported: ONNX has no operator for mmsec.density_peaks',
    'ClusTR in regions': 'ClusTR cannot be exported: ONNX has no operator for mmsec.density_peaks',
    'Swin in clusters': 'is a baseline for ablations, without ONNX',
}
ONE_STAGE = dict(
    type='SecViT',
    arch=dict(embed_dims=(16,), depths=(1,), num_heads=(2,), mlp_ratio=1, layer_scale=(False,)),
    num_clusters=(8,),
    out_indices=(0,),
)
VIT = dict(type='ViT', arch=dict(embed_dims=16, depth=1, num_heads=2, mlp_ratio=2), patch_size=8, img_size=64)
DINOV3 = dict(VIT, arch=VIT['arch'] | dict(rotary=True, swiglu=True))
TWO_WINDOWED_BLOCKS = dict(
    ONE_STAGE, arch=ONE_STAGE['arch'] | dict(depths=(2,)), grouping=dict(type='WindowGrouping', shift=True)
)


def build(type: str, **options) -> Backbone:
    """A backbone with random weights large enough for each of them to matter."""
    return with_large_weights(MODELS.build(dict(type=f'mmsec.{type}', **options)).eval())


def exported(backbone: nn.Module, height: int = 64, width: int = 96, dynamic: bool = False) -> Exported:
    return export(backbone, images(2, height, width), [f'map{i}' for i in backbone.out_indices], dynamic)


def images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width)


def domains(content: bytes) -> set[str]:
    """Whose operators a file has, also in the functions it defines."""
    model = onnx.load_model_from_string(content)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    return {node.domain for node in nodes}


@pytest.mark.parametrize('name', SMALL)
def test_a_backbone_is_exported_or_refused_in_one_line(name):
    backbone = build(SMALL[name].type, **SMALL[name].options)
    if name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name]) as error:
            exported(backbone)
        assert '\n' not in str(error.value)
        return
    file = exported(backbone)
    assert domains(file.content) == {''}
    onnx.checker.check_model(file.content, full_check=True)
    agreement = verify(backbone, file, images(2, 64, 96))
    assert agreement.same_order < 1e-5
    assert agreement.own_order < 1e-5
    assert agreement.moved == (0 if 'SecViT' in name or 'ViT in clusters' in name else None)


@pytest.mark.parametrize('name', ['KMeansGrouping', 'ProjectionGrouping', 'RandomGrouping'])
def test_a_baseline_is_refused(name):
    with pytest.raises(InputError, match=f'SecViT cannot be exported: {name} is a baseline for ablations'):
        exported(build(**ONE_STAGE, grouping=dict(type=name)))


class Remainders(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        columns = torch.arange(-5, 5)
        return x % 0.3 + (columns % 3 + columns // x.shape[-1])[:, None, None, None, None]


def test_remainders_and_quotients_of_negative_numbers_are_those_of_torch():
    file = export(Remainders(), images(2, 64, 96), ['y'], dynamic=True)
    assert verify(Remainders(), file, images(2, 65, 67)).own_order < 1e-5


@pytest.mark.parametrize(
    'options',
    [TWO_WINDOWED_BLOCKS, dict(ONE_STAGE, grouping=dict(type='WindowGrouping'), carriers=2), VIT, DINOV3],
    ids=['shifted windows', 'carriers', 'positions', 'rotary positions'],
)
def test_a_dynamic_file_takes_any_number_of_images_of_any_size(options):
    backbone = build(**options)
    file = exported(backbone, dynamic=True)
    assert domains(file.content) == {''}
    for shape in ((1, 64, 64), (2, 64, 96), (3, 91, 157), (1, 100, 132)):
        assert verify(backbone, file, images(*shape)).own_order < 1e-5, shape


class Heads(nn.Module):
    """A backbone in clusters, and heads of mmsegmentation behind it."""

    def __init__(self, *heads: dict) -> None:
        super().__init__()
        self.backbone = build(**ONE_STAGE)
        common = dict(in_channels=[16], in_index=[0], channels=8, num_classes=3, align_corners=False)
        self.heads = nn.ModuleList(MODELS.build(common | head) for head in heads)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(x)
        return *maps, *(head(maps) for head in self.heads)


def test_a_dynamic_file_of_clusters_and_heads_takes_any_size():
    pytest.importorskip('mmseg')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = Heads(
            dict(type='UPerHead', pool_scales=(1, 2, 3, 6)),  # pools to 6x6, whatever the size
            dict(type='FPNHead', feature_strides=[4]),
            dict(type='SegformerHead'),
        ).eval()
    file = export(model, images(2, 64, 96), ['map', 'upernet', 'fpn', 'segformer'], dynamic=True)
    assert domains(file.content) == {''}
    for shape in ((2, 64, 96), (1, 91, 157), (3, 400, 65)):
        agreement = verify(model, file, images(*shape))
        assert agreement.same_order < 1e-5, shape
        assert agreement.moved < 0.01, shape


def vit_that_merges(**merging) -> Backbone:
    return build(**VIT | dict(arch=VIT['arch'] | dict(depth=3), merging=merging))


@pytest.mark.parametrize(
    'merging',
    [
        dict(type='PiToMe', ratio=0.8),  # in both of its modes, and of 240 tokens 48 without a remainder
        dict(type='MPM', layers=(0, 2)),
        dict(type='CubistMerge', after_block=1, r=0.3),
    ],
    ids=lambda merging: merging['type'],
)
def test_merging_leaves_for_any_size_also_where_the_image_says_how_many_tokens_merge(merging):
    backbone = vit_that_merges(**merging)
    file = exported(backbone, dynamic=True)
    assert domains(file.content) == {''}
    for shape in ((2, 64, 96), (1, 91, 157)):
        assert verify(backbone, file, images(*shape)).own_order < 1e-5, shape


@pytest.mark.parametrize('merging', ['ATC', 'AiluRus'])
def test_what_clusters_by_an_operator_of_its_own_is_refused_in_one_line(merging):
    options = dict(layers=(1,)) if merging == 'ATC' else {}
    with pytest.raises(InputError, match=r'^ViT cannot be exported: ONNX has no operator for mmsec\.\w+$'):
        exported(vit_that_merges(type=merging, **options))


def test_what_is_right_for_one_size_alone_is_not_exported_for_any():
    small = SMALL['ViT in windows']
    with pytest.raises(InputError, match=r'cannot be exported for any size.*Leave out --dynamic') as error:
        exported(build(small.type, **small.options), dynamic=True)
    assert '\n' not in str(error.value)


def test_tokens_of_equal_score_stay_in_the_order_of_the_map():
    backbone = build(**ONE_STAGE)
    file = exported(backbone, 64, 64)
    flat = torch.ones(2, 3, 64, 64)  # but for the edges all tokens are equal
    assert verify(backbone, file, flat).moved < 0.05
    inverse = run(file.watched, flat)[-1]
    assert torch.equal(inverse.sort(dim=-1).values, torch.arange(256).expand_as(inverse))


def test_a_wrong_file_and_an_order_of_its_own_are_told_apart():
    backbone, x = build(**ONE_STAGE), images(2, 64, 96)
    file = exported(backbone)
    with torch.no_grad():
        moving = build(**ONE_STAGE)
        moving.load_state_dict(backbone.state_dict())
        moving.stages[0].blocks[0].attn.grouping.register_forward_hook(
            lambda module, inputs, grouping: grouping._replace(
                order=grouping.order.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
            )
        )
        agreement = verify(backbone, file._replace(**exported(moving)._asdict()), x)
    assert agreement.moved > 0.5
    assert agreement.own_order > 1e-3
    assert agreement.same_order < 1e-5
    with torch.no_grad():
        backbone.out_norms['0'].weight.mul_(1.01)
    assert verify(backbone, file, x).same_order > 1e-3


def test_the_file_has_no_path_of_this_machine_and_holds_what_it_is_told():
    file = export(build(**ONE_STAGE), images(1, 64, 64), ['map'], notes={'channels': 'RGB'})
    assert b'mmsec/' not in file.content
    model = onnx.load_model_from_string(file.content)
    assert {each.key: each.value for each in model.metadata_props} == {'channels': 'RGB'}
    assert [each.name for each in model.graph.input] == ['images']
    assert [each.name for each in model.graph.output] == ['map']


def test_a_missing_package_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'onnxscript' else found(name))
    with pytest.raises(InputError, match=r"ONNX needs onnxscript, not installed here: pip install -e '\.\[onnx\]'"):
        export(build(**ONE_STAGE), images(1, 64, 64), ['map'])
