import cv2
import numpy as np
import pytest

from tests.conftest import OFFICIAL, ROOT, error_here, run_here

TOOL = 'analysis_tools/visualize_clusters.py'
DETECTOR = ROOT / 'configs/mmdet/secvit_t_maskrcnn.py'
SEGMENTER = ROOT / 'configs/mmseg/secvit_t_upernet.py'


@pytest.fixture
def images(tmp_path):
    """A folder of one large, one tiny and one broken image."""
    folder = tmp_path / 'images'
    folder.mkdir()
    cv2.imwrite(str(folder / 'large.jpg'), np.random.default_rng(0).integers(0, 255, (130, 170, 3), np.uint8))
    cv2.imwrite(str(folder / 'tiny.png'), np.zeros((1, 1, 3), np.uint8))
    (folder / 'broken.jpg').write_bytes(b'no image')
    return folder


def test_a_folder_is_drawn_and_a_broken_image_named(images, tmp_path):
    result = run_here(TOOL, images, '--arch', 'tiny', '--out', tmp_path / 'out', check=False)
    assert result.returncode == 1
    assert f"error: '{images}/broken.jpg' is not an image" in result.stdout
    assert 'weights are random' in result.stdout
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['large.png', 'tiny.png']
    assert cv2.imread(str(tmp_path / 'out/large.png')).shape[1] == 1200


@pytest.mark.parametrize('config', [DETECTOR, SEGMENTER])
def test_configs_of_both_hosts(images, tmp_path, config):
    arguments = ['--config', config, '--stage', 1, 4, '--block', 1, '--head', 'all', '--clusters', 5]
    run_here(TOOL, images / 'large.jpg', *arguments, '--out', tmp_path / 'out')
    assert cv2.imread(str(tmp_path / 'out/large.png')).shape[0] > 18 * 200  # 2 heads and 16


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.jpg', '--arch', 'tiny'], "'absent.jpg' not found"),
        (['IMAGE', '--arch', 'tiny', '--stage', '1', '--head', '3'], '--head 3: stage 1 has 2 heads'),
        (['IMAGE', '--arch', 'tiny', '--stage', '1', '--block', '9'], '--block 9: stage 1 has 2 blocks'),
        (['IMAGE', '--arch', 'tiny', '--checkpoint', OFFICIAL], 'does not fit this SecViT'),
        (['IMAGE', '--arch', 'tiny', '--head', 'first'], '--head must be all, mean or a number'),
        (['IMAGE', '--arch', 'tiny', '--stage', '5'], 'invalid choice: 5'),
        (['IMAGE', '--arch', 'tiny', '--clusters', '0'], '--clusters must be at least 1'),
        (['IMAGE'], 'give either --config or --arch'),
        (['IMAGE', '--config', 'OTHER'], 'the backbone of the config is ResNet, which is none of mmsec'),
        (['IMAGE', '--config', 'NONE'], 'the config has no model.backbone with a type'),
        (['EMPTY', '--arch', 'tiny'], 'no image in folder'),
    ],
)
def test_bad_input_is_one_line(images, tmp_path, arguments, message):
    (tmp_path / 'other.py').write_text("default_scope = 'mmdet'\nmodel = dict(backbone=dict(type='ResNet'))\n")
    (tmp_path / 'none.py').write_text("default_scope = 'mmdet'\nmodel = dict(type='DETR')\n")
    (tmp_path / 'empty').mkdir()
    places = {'IMAGE': images / 'large.jpg', 'EMPTY': tmp_path / 'empty'}
    places |= {'OTHER': tmp_path / 'other.py', 'NONE': tmp_path / 'none.py'}
    arguments = [places.get(each, each) for each in arguments]
    assert message in error_here(TOOL, *arguments, '--out', tmp_path / 'out')
