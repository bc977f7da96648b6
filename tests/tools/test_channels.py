"""Images of other than three channels: every tool and picture takes ``backbone.in_channels``."""

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from tests.conftest import DETECTOR, SEGMENTER, run_here, small_run


@pytest.fixture(params=[1, 4])
def channels(request):
    return request.param


@pytest.fixture
def config(shapes, tmp_path, channels):
    """A small segmenter, for grey images or for those of four channels."""
    path = small_run(SEGMENTER, shapes, tmp_path)
    cfg = Config.fromfile(path)
    cfg.model.backbone.in_channels = channels
    cfg.model.data_preprocessor.update(mean=[100], std=[50], bgr_to_rgb=False)  # MMEngine takes one or three
    cfg.dump(path)
    return path


@pytest.fixture
def picture(tmp_path):
    """An image file that is read as one channel or as four."""
    path = tmp_path / 'picture.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 96, 4), np.uint8))
    return path


def test_tools_that_draw_count_and_export(config, picture, tmp_path, channels):
    counted = run_here('analysis_tools/get_flops.py', config, '--shape', 64, 64).stdout
    assert f'1x{channels}x64x64' in counted
    run_here('analysis_tools/visualize_clusters.py', picture, '--config', config, '--out', tmp_path / 'out')
    assert cv2.imread(str(tmp_path / 'out/picture.png')).shape[1] == 1200
    arguments = [config, tmp_path / 'model.onnx', '--backbone', '--shape', 64, 64, '--verify', picture]
    assert f'images of 1x{channels}x64x64' in run_here('deployment/export_onnx.py', *arguments).stdout


@pytest.mark.parametrize('host', [DETECTOR, SEGMENTER])
def test_grey_images_are_trained_on_drawn_and_predicted(shapes, tmp_path, host):
    config = small_run(host, shapes, tmp_path)
    cfg = Config.fromfile(config)
    cfg.model.backbone.in_channels = 1
    cfg.model.data_preprocessor.update(mean=[100], std=[50], bgr_to_rgb=False)
    for split in ('train', 'val', 'test'):
        pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
        first = pipeline[0].transforms[0] if 'transforms' in pipeline[0] else pipeline[0]
        assert first.type == 'LoadImageFromFile'
        first.color_type = 'grayscale'
        cfg[f'{split}_dataloader'].dataset.pipeline = [
            each for each in pipeline if each.type != 'PhotoMetricDistortion'
        ]
    cfg.custom_hooks.append(dict(type='mmsec.ClusterVisualizationHook', num_images=1))
    cfg.dump(config)
    work = tmp_path / 'work'
    run_here('train.py', config, '--work-dir', work)
    assert list(work.glob('*/vis_data/vis_image/clusters_*'))
    checkpoint = (work / 'last_checkpoint').read_text()
    run_here('test.py', config, checkpoint, '--work-dir', work, '--show-dir', tmp_path / 'pictures')
    assert (tmp_path / 'pictures/contact_sheet.png').exists()
    images = shapes / 'coco/val2017'
    run_here('infer.py', images, config, checkpoint, '--out', tmp_path / 'out')
    assert len(list((tmp_path / 'out').glob('*.json'))) == 4
