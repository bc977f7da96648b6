"""The tools that look into a backbone, for one whose heads share clusters at two scales."""

import json
import re
from functools import partial

import cv2
import pytest
import torch

from mmsec.cli.flops import count_kinds
from mmsec.models import ClusTR
from tests.conftest import ROOT, error_here, run_here, small_run

# Multiply-adds at 224x224 in G, as published. They agree with ours if attention to the coarse scale is counted, and
# neither attention to the fine scale nor clustering is.
PUBLISHED = {'b1': 2.15, 'b2': 4.8, 'b3': 7.48}


def by_formula(arch: str, side: int = 224) -> tuple[int, int, int]:
    """Multiply-adds of distances, of attention to one scale and to both, from the sizes alone."""
    distances = one = both = 0
    sizes = ClusTR.arch_zoo[arch]
    for i, (dims, depth, ratio) in enumerate(
        zip(sizes['embed_dims'], sizes['depths'], sizes['sr_ratios'], strict=True)
    ):
        tokens = (side // (4 << i)) ** 2
        coarse = tokens // ratio**2
        one += depth * 2 * tokens * coarse * dims
        both += depth * 2 * tokens * coarse * dims * (1 if ratio == 1 else 5)
        if ratio > 1:
            pairs = tokens**2 + sum((tokens - clusters) * clusters for clusters in (coarse, 4 * coarse))
            distances += depth * pairs * dims
    return distances, one, both


@pytest.mark.parametrize('arch', ['b1', 'b2', 'b3'])
def test_clustering_attention_and_the_rest_are_counted_apart(arch):
    with torch.device('meta'):
        backbone, images = ClusTR(arch).eval(), torch.rand(1, 3, 224, 224)
    kinds = count_kinds(backbone, lambda: backbone(images))
    whole = kinds['']
    distances, one, both = by_formula(arch)
    assert (whole['clustering'], whole['attention']) == (distances, both)
    assert (whole['rest'] + one) / 1e9 == pytest.approx(PUBLISHED[arch], rel=0.01)
    assert sum(kinds[f'stages.{i}']['clustering'] for i in range(4)) == whole['clustering']
    assert kinds['stages.3']['clustering'] == 0


def test_four_regions_cost_a_fourth_of_the_clustering_and_as_much_of_the_rest():
    with torch.device('meta'):
        images = torch.rand(1, 3, 448, 448)
        backbones = [ClusTR('b1'), ClusTR('b1', region_size=3136)]
    whole, regions = (count_kinds(backbone, partial(backbone, images)) for backbone in backbones)
    assert whole['']['clustering'] == by_formula('b1', 448)[0]
    first, first_in_regions = whole['stages.0'], regions['stages.0']  # 112x112 tokens; stage 2 has 3136
    assert first_in_regions == first | {'clustering': first['clustering'] // 4}
    assert regions['stages.1'] == whole['stages.1']


def test_flops_of_a_config_are_printed_apart(tmp_path):
    config = ROOT / 'configs/mmseg/clustr/clustr_b1_semanticfpn.py'
    out = run_here('analysis_tools/get_flops.py', config, '--shape', 64, 96).stdout
    (line,) = re.findall(r'^backbone: clustering ([\d.]+) G, attention ([\d.]+) G, rest ([\d.]+) G$', out, re.M)
    (total,) = re.findall(r'^backbone +[\d.]+ M +([\d.]+) G$', out, re.M)
    assert sum(map(float, line)) == pytest.approx(float(total), abs=0.02)


def test_both_scales_are_drawn(image, tmp_path):
    call = ['analysis_tools/visualize_clusters.py', image, '--arch', 'b1', '--stage', 1, 4, '--out']
    heights = []
    for options in ([], ['--head', 1]):
        run_here(*call, tmp_path / 'out', *options)
        heights.append(cv2.imread(str(tmp_path / 'out/image.png')).shape[0])
    assert heights[1] < heights[0]  # stage 4 has one row either way
    assert '--head 2: stage 4 has 1 scales' in error_here(*call, tmp_path / 'out', '--head', 2)
    assert '--clusters 5: ClusTR has no such option' in error_here(*call, tmp_path / 'out', '--clusters', 5)


def test_both_scales_are_measured(shapes, tmp_path):
    config = small_run('mmdet/clustr/clustr_b1_maskrcnn_shapes.py', shapes, tmp_path)
    printed = run_here('analysis_tools/analyze_clusters.py', config, '--images', 2, '--out', tmp_path / 'out').stdout
    assert 'stage 4, all tokens: one cluster, nothing to compare' in printed
    rows = json.loads((tmp_path / 'out/analysis.json').read_text())['rows']
    scales = ('coarse scale', 'fine scale')
    assert [(row['stage'], row['scale'], row['grouping']) for row in rows] == [
        (stage, scale, name) for stage in (1, 2, 3) for scale in scales for name in (scale, 'windows', 'random')
    ]
    found = {(row['scale'], row['grouping']): row for row in rows if row['stage'] == 1}
    assert found['coarse scale', 'coarse scale']['clusters'] == [16, 16]  # of 32x32 tokens
    assert found['fine scale', 'windows']['clusters'] == [64, 64]
    assert found['fine scale', 'windows']['compactness'] > 0.9
    assert all(row['ami_classes'] is not None for row in rows)
    assert cv2.imread(str(tmp_path / 'out/analysis.png')).shape[1] == 1200
