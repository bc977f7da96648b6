import re

import pytest
import torch

from mmsec.cli import torchvision_apart  # noqa: F401
from mmsec.cli.flops import count_kinds
from mmsec.models import SecViT
from tests.conftest import ROOT, needs_operators, run_here

pytestmark = needs_operators


def formula(arch: str, height: int, width: int, num_clusters=(32, 8, 2, 1)) -> float:
    """Multiply-adds of a backbone, from the sizes alone; 4 N C^2 + 2 N^2 C / M for an attention layer's products."""
    sizes = SecViT.arch_zoo[arch]
    first = sizes['embed_dims'][0]
    half = first // 2
    pixels = height * width
    total = pixels / 4 * 9 * (3 * half + 2 * half * half) + pixels / 16 * 9 * half * first  # stem
    for i, (dims, depth, clusters) in enumerate(zip(sizes['embed_dims'], sizes['depths'], num_clusters, strict=True)):
        tokens = pixels / (4 << i) ** 2
        if i:
            total += tokens * 9 * sizes['embed_dims'][i - 1] * dims  # patch merging
        attention = 4 * tokens * dims**2 + 2 * tokens**2 * dims / clusters
        depthwise = tokens * dims * (9 + 25 + 9 * sizes['mlp_ratio'])
        total += depth * (attention + depthwise + 2 * sizes['mlp_ratio'] * tokens * dims**2)
    return total


@pytest.mark.parametrize(('height', 'width'), [(224, 224), (416, 352)])
@pytest.mark.parametrize('arch', ['tiny', 'base'])
def test_backbone_agrees_with_the_formula(arch, height, width):
    backbone = SecViT(arch, out_norm=False).eval()
    kinds = count_kinds(backbone, lambda: backbone(torch.rand(1, 3, height, width)))
    counts = {name: sum(each.values()) for name, each in kinds.items()}
    assert counts[''] == pytest.approx(formula(arch, height, width), rel=0.01)
    assert sum(counts[f'stages.{i}'] for i in range(4)) < counts['']


@pytest.mark.parametrize(
    ('config', 'parts'),
    [
        ('mmdet/secvit_t_maskrcnn.py', ['neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head']),
        ('mmdet/secvit_t_cascade_maskrcnn_3x.py', ['neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head']),
        ('mmdet/secvit/secvit_t_dino.py', ['neck', 'encoder', 'decoder', 'bbox_head']),
        ('mmdet/secvit/secvit_t_mask2former.py', ['panoptic_head']),
        ('mmdet/secvit/secvit_t_retinanet.py', ['neck', 'bbox_head']),
        ('mmseg/secvit_t_upernet.py', ['decode_head']),
    ],
)
def test_tool_prints_every_part(config, parts):
    arguments = ROOT / 'configs' / config, '--shape', 224, 224  # DINO needs 900 tokens
    out = run_here('analysis_tools/get_flops.py', *arguments).stdout
    table = {m[1]: (float(m[2]), float(m[3])) for m in re.finditer(r'^ *(\S.*?) +([\d.]+) M +([\d.]+) G$', out, re.M)}
    for part in ['backbone', *(f'backbone.stages.{i}' for i in range(4)), *parts, 'whole model']:
        parameters, multiply_adds = table[part]
        assert parameters > 0
        assert multiply_adds > 0
    assert table['backbone'][0] == pytest.approx(13.43, abs=0.01)


def test_a_classifier_is_counted_at_its_own_size():
    pytest.importorskip('mmpretrain')
    config = ROOT / 'configs/mmpretrain/secvit/secvit_t_classifier_in1k.py'
    out = run_here('analysis_tools/get_flops.py', config).stdout
    assert 'secvit_t_classifier_in1k.py, 1x3x224x224' in out
    assert re.search(r'whole model +14\.98 M', out)
    # 2.5 G are published, without the products of attention
    assert float(re.search(r'rest ([\d.]+) G', out)[1]) == pytest.approx(2.5, abs=0.05)
    assert re.search(r'^head +1\.02 M', out, re.M)
