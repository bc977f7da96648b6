import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

import mmsec.models  # noqa: F401
from mmsec.cli.config import load_config
from mmsec.models.necks.simple_feature_pyramid import SimpleFeaturePyramid
from tests.conftest import ROOT


@pytest.mark.parametrize('host', ['mmengine', 'mmdet', 'mmseg'])
def test_every_host_finds_it(host):
    registry = pytest.importorskip(f'{host}.registry').MODELS
    neck = registry.build(dict(type='mmsec.SimpleFeaturePyramid', in_channels=16, out_channels=8))
    assert isinstance(neck, SimpleFeaturePyramid)


@pytest.mark.parametrize(('height', 'width'), [(4, 6), (5, 3), (1, 1)])
def test_maps_of_four_scales_and_coarser_ones(height, width):
    neck = SimpleFeaturePyramid(16, 8, num_outs=6)
    maps = neck([torch.randn(2, 16, height, width)])
    for m, scale in zip(maps, (4, 2, 1, 1 / 2, 1 / 4, 1 / 8), strict=True):
        wanted = [-(-side // round(1 / scale)) if scale < 1 else side * scale for side in (height, width)]
        assert list(m.shape) == [2, 8, *wanted]
        assert m.is_contiguous()
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    if (height, width) == (4, 6):
        assert [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_every_map_is_that_of_a_plain_computation():
    neck, x = SimpleFeaturePyramid(16, 8, num_outs=5).double(), torch.randn(2, 16, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.normal_()

    def norm(m, layer):
        return F.layer_norm(m.permute(0, 2, 3, 1), m.shape[1:2], layer.weight, layer.bias, 1e-6).permute(0, 3, 1, 2)

    def up(m, layer):
        return F.conv_transpose2d(m, layer.weight, layer.bias, stride=2)

    first, inner, _, second = neck.scales[0]
    scaled = [up(F.gelu(norm(up(x, first), inner)), second), up(x, neck.scales[1]), x]
    scaled.append(F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float('-inf')), 2))
    wanted = [
        norm(F.conv2d(norm(F.conv2d(m, one.weight), norm1), three.weight, padding=1), norm2)
        for m, (one, norm1, three, norm2) in zip(scaled, neck.outs, strict=True)
    ]
    for m, plain in zip(neck([x]), [*wanted, wanted[-1][:, :, ::2, ::2]], strict=True):
        torch.testing.assert_close(m, plain)


def test_parameters_are_those_of_vitdet():
    c, o = 768, 256
    up4 = (c * c // 2 * 4 + c // 2) + 2 * (c // 2) + (c // 2 * c // 4 * 4 + c // 4)
    up2 = c * c // 2 * 4 + c // 2
    outs = sum(inside * o + 9 * o * o + 4 * o for inside in (c // 4, c // 2, c, c))
    assert sum(p.numel() for p in SimpleFeaturePyramid(c, o).parameters()) == up4 + up2 + outs


def test_what_cannot_be_used_is_named():
    with pytest.raises(ValueError, match='num_outs must be at least 4, got 3'):
        SimpleFeaturePyramid(16, num_outs=3)
    with pytest.raises(ValueError, match='SimpleFeaturePyramid takes one map, got 2'):
        SimpleFeaturePyramid(16)([torch.zeros(1, 16, 2, 2)] * 2)


def test_its_norm_is_one_for_configs():
    from mmcv.cnn import build_norm_layer

    name, norm = build_norm_layer(dict(type='mmsec.LayerNorm2d'), 8)
    assert MODELS.get('mmsec.LayerNorm2d') is type(norm)
    assert name == 'ln'
    assert norm(torch.randn(2, 8, 3, 4)).shape == (2, 8, 3, 4)
    assert norm.eps == 1e-5  # mmcv's, where the config says nothing
    model = load_config(str(ROOT / 'configs/mmdet/vit/vit_b_maskrcnn.py')).model
    assert build_norm_layer(model.roi_head.bbox_head.norm_cfg, 8)[1].eps == 1e-6  # the neck's
