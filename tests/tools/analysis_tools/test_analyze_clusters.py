import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from tests.conftest import DETECTOR, OFFICIAL, SEGMENTER, error_here, run_here, small_checkpoint, small_run
from tools.analysis_tools import analyze_clusters

TOOL = 'analysis_tools/analyze_clusters.py'
RESNET = {'type': 'ResNet', 'depth': 18, '_delete_': True}


@pytest.mark.parametrize('name', [DETECTOR, SEGMENTER])
def test_every_stage_and_grouping_is_measured(shapes, tmp_path, name):
    config = small_run(name, shapes, tmp_path)
    result = run_here(TOOL, config, small_checkpoint(config), '--images', 3, '--out', tmp_path / 'out')
    assert 'stage 4: one cluster, nothing to compare' in result.stdout
    content = json.loads((tmp_path / 'out/analysis.json').read_text())
    measured = [(row['stage'], row['grouping']) for row in content['rows']]
    wanted = [['head 1'], ['head 1', 'head 2'], [f'head {i}' for i in range(1, 5)]]
    assert measured == [(s, g) for s, heads in enumerate(wanted, start=1) for g in [*heads, 'windows', 'random']]
    by_grouping = {(row['stage'], row['grouping']): row for row in content['rows']}
    assert by_grouping[1, 'head 1']['clusters'] == [32, 32]
    assert by_grouping[1, 'head 1']['images']['ami_classes'] == 3
    assert by_grouping[1, 'windows']['ami_classes'] > 0.1
    assert abs(by_grouping[1, 'random']['ami_classes']) < 0.1
    assert by_grouping[1, 'windows']['compactness'] > 0.9 > by_grouping[1, 'head 1']['compactness']
    assert (by_grouping[1, 'windows']['ami_instances'] is None) == (name == SEGMENTER)
    assert f'{by_grouping[2, "head 2"]["purity_classes"]:.3f}' in result.stdout
    kmeans = content['plain_kmeans_largest_over_mean']
    assert [row['stage'] for row in kmeans] == [1, 2, 3]
    assert all(1 <= row['mean'] <= row['max'] for row in kmeans)
    assert f'plain k-means on the same keys has {kmeans[0]["mean"]:.2f} times' in result.stdout
    assert cv2.imread(str(tmp_path / 'out/analysis.png')).shape[1] == 1200


def test_random_weights_are_said_and_a_broken_image_is_named(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path)
    (tmp_path / 'images').mkdir()
    for path in sorted((shapes / 'ade/images/validation').iterdir()):
        (tmp_path / 'images' / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / 'images' / path.name
    broken.write_bytes(b'no image')
    options = ['--cfg-options', f'test_dataloader.dataset.data_prefix.img_path={tmp_path}/images']
    result = run_here(TOOL, config, '--out', tmp_path / 'out', *options, check=False)
    assert result.returncode == 1
    assert 'weights are random' in result.stdout
    assert str(broken) in result.stdout
    assert json.loads((tmp_path / 'out/analysis.json').read_text())['rows'][0]['images']['compactness'] == 3


@pytest.mark.parametrize(
    ('change', 'arguments', 'message'),
    [
        ({}, ['absent.pth'], "checkpoint 'absent.pth' not found"),
        ({'model.backbone.arch': 'tiny'}, [OFFICIAL], 'does not fit this SecViT'),
        ({}, ['--images', '0'], '--images must be at least 1, got 0'),
        ({'model.backbone': RESNET}, [], 'the backbone of the config is ResNet, which is none of mmsec'),
        ({'test_dataloader.dataset.pipeline.2.with_mask': False}, [], 'has no masks to compare clusters with'),
        ({'test_dataloader.dataset.data_root': '/nowhere'}, [], "test data: '/nowhere' not found"),
        ({'model.backbone.num_clusters': (1, 1, 1, 1)}, [], 'no image with clusters to compare'),
    ],
)
def test_bad_input_is_one_line(shapes, tmp_path, change, arguments, message):
    cfg = Config.fromfile(small_run(DETECTOR, shapes, tmp_path))
    cfg.merge_from_dict(change)
    cfg.dump(tmp_path / 'changed.py')
    assert message in error_here(TOOL, tmp_path / 'changed.py', *arguments, '--out', tmp_path / 'out')


def test_random_and_window_baselines_have_the_sizes_of_the_clusters():
    ids = (np.arange(2 * 6 * 7) % 42 * 5 // 42).reshape(2, 6, 7)
    found = dict(analyze_clusters.groupings(ids, np.random.default_rng(0)))
    assert list(found) == ['head 1', 'head 2', 'windows', 'random']
    wanted = sorted(np.bincount(ids[0].ravel()))
    assert all(sorted(np.bincount(clusters.ravel())) == wanted for clusters in found.values())
