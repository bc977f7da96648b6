import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import DETECTOR, ROOT, SEGMENTER, error_here, run_here, small_checkpoint, small_run
from tools import infer


@pytest.fixture(scope='module', params=[DETECTOR, SEGMENTER])
def trained(request, shapes, tmp_path_factory):
    """A config of each host and a checkpoint with random weights."""
    config = small_run(request.param, shapes, tmp_path_factory.mktemp('infer'))
    return config, small_checkpoint(config), request.param == DETECTOR


@pytest.fixture
def images(tmp_path):
    """Two images of one size, one of another in a folder of its own, and a broken one."""
    rng = np.random.default_rng(0)
    for name, shape in (('a.jpg', (70, 90, 3)), ('b.jpg', (70, 90, 3)), ('deep/a.png', (40, 33, 3))):
        (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / 'images' / name), rng.integers(0, 255, shape, np.uint8))
    (tmp_path / 'images/c.jpg').write_bytes(b'no image')
    return tmp_path / 'images'


def test_a_folder_is_predicted_and_a_broken_image_named(trained, images, tmp_path, recwarn):
    config, checkpoint, detector = trained
    options = ['--score-thr', 0] if detector else []
    result = run_here(
        'infer.py', images, config, checkpoint, '--out', tmp_path / 'out', '--batch-size', 2, '--device', 'cpu',
        *options, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert f"error: '{images}/c.jpg' is not an image" in result.stdout
    assert '3 images predicted' in result.stdout
    assert [each for each in recwarn if 'save_dir' in str(each.message)] == []  # advice that no option follows
    for name, (height, width) in {'a': (70, 90), 'b': (70, 90), 'deep/a': (40, 33)}.items():
        assert cv2.imread(str(tmp_path / f'out/{name}.png')).shape[:2] == (height, width)
        content = json.loads((tmp_path / f'out/{name}.json').read_text())
        assert content['image'].startswith(str(images / name))
        if detector:
            scores = [instance['score'] for instance in content['instances']]
            assert scores
            assert scores == sorted(scores, reverse=True)
            assert {instance['class'] for instance in content['instances']} <= {'disc', 'square', 'triangle', 'star'}
            assert content['instances'][0]['mask']['size'] == [height, width]
        else:
            labels = cv2.imread(str((tmp_path / 'out' / name).parent / content['label_map']), cv2.IMREAD_GRAYSCALE)
            assert labels.shape == (height, width)
            classes = ['ground', 'disc', 'square', 'triangle', 'star']
            shares = {classes[label]: float((labels == label).mean()) for label in np.unique(labels)}
            assert content['share_of_pixels'] == pytest.approx(shares)


KINDS = {  # what an image file may hold, and whether it is an image
    'grey.png': (lambda pixels, path: cv2.imwrite(path, pixels[..., 0]), True),
    'sixteen.png': (lambda pixels, path: cv2.imwrite(path, pixels.astype(np.uint16) * 257), True),
    'alpha.png': (lambda pixels, path: cv2.imwrite(path, np.dstack([pixels, pixels[..., 0]])), True),
    'cmyk.jpg': (lambda pixels, path: Image.fromarray(pixels).convert('CMYK').save(path), True),
    'palette.png': (lambda pixels, path: Image.fromarray(pixels).convert('P').save(path), True),
    'cut.png': (lambda pixels, path: Path(path).write_bytes(cv2.imencode('.png', pixels)[1].tobytes()[:900]), False),
    'empty.jpg': (lambda pixels, path: Path(path).touch(), False),
    'text.jpg': (lambda pixels, path: Path(path).write_text('no image'), False),
    'folder.jpg': (lambda pixels, path: Path(path).mkdir(), False),
    'dangling.jpg': (lambda pixels, path: Path(path).symlink_to('absent'), False),
}


def test_each_kind_of_file_is_predicted_or_costs_itself_alone(trained, tmp_path):
    config, checkpoint, _ = trained
    folder = tmp_path / 'images'
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    for name, (write, _) in KINDS.items():
        write(pixels, str(folder / name))
    arguments = folder, config, checkpoint, '--out', tmp_path / 'out', '--batch-size', 4
    result = run_here('infer.py', *arguments, check=False)
    assert result.returncode == 1
    assert '5 images predicted' in result.stdout
    assert result.stdout.endswith('error: 5 images were left out, see above\n')
    for name, (_, good) in KINDS.items():
        assert (tmp_path / 'out' / name).with_suffix('.json').is_file() == good
        assert (f"error: '{folder / name}' is not an image" in result.stdout) == (not good)


def test_an_image_that_a_model_fails_on_costs_no_other_of_its_batch(capsys):
    def inferencer(paths, batch_size, return_vis):
        if 'bad' in paths:
            raise RuntimeError('out of\nmemory')
        return {'predictions': paths, 'visualization': paths}

    failed = []
    found = list(infer.predicted(inferencer, [Path('a'), Path('bad'), Path('b')], {}, failed))
    assert [(path.name, prediction) for path, prediction, _ in found] == [('a', 'a'), ('b', 'b')]
    assert failed == [Path('bad')]
    assert capsys.readouterr().err == "error: 'bad' cannot be predicted: RuntimeError: out of memory\n"


def test_batches_predict_what_single_images_do(trained, images, tmp_path):
    config, checkpoint, _ = trained
    (images / 'c.jpg').unlink()
    found = []
    for size in (1, 2):
        out = tmp_path / str(size)
        run_here('infer.py', images, config, checkpoint, '--out', out, '--batch-size', size)
        found.append(json.loads((out / 'b.json').read_text()))
    if 'instances' in found[0]:
        boxes = [[instance['box'] for instance in each['instances']] for each in found]
        np.testing.assert_allclose(*boxes, atol=1e-2)
    else:
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.jpg', 'CONFIG', 'CHECKPOINT'], "'absent.jpg' not found"),
        (['IMAGE', 'absent.py', 'CHECKPOINT'], "config 'absent.py' not found"),
        (['IMAGE', 'CONFIG', 'absent.pth'], "checkpoint 'absent.pth' not found"),
        (['IMAGE', 'OTHER', 'CHECKPOINT'], 'does not fit the config'),
        (['IMAGE', 'CONFIG', 'CHECKPOINT', '--batch-size', '0'], '--batch-size must be at least 1, got 0'),
        (['IMAGE', 'CONFIG', 'CHECKPOINT', '--score-thr', '30'], '--score-thr must be in [0, 1], got 30'),
        (['IMAGE', 'SEGMENTER', 'CHECKPOINT', '--score-thr', '0.5'], 'is a segmenter'),
        (['IMAGE', 'CONFIG', 'BARE'], 'has no class names'),
        (['DEEP', 'CONFIG', 'CHECKPOINT', '--out', 'DEEP'], 'is one of the images'),
    ],
)
def test_bad_input_is_one_line(trained, images, tmp_path, arguments, message):
    config, checkpoint, detector = trained
    bare = tmp_path / 'bare.pth'
    torch.save(torch.load(checkpoint)['state_dict'], bare)
    places = {'IMAGE': images / 'a.jpg', 'DEEP': images / 'deep', 'CONFIG': config, 'CHECKPOINT': checkpoint}
    places |= {'BARE': bare, 'OTHER': ROOT / 'configs' / (DETECTOR if detector else SEGMENTER)}
    places |= {'SEGMENTER': ROOT / 'configs' / SEGMENTER}
    arguments = [places.get(each, each) for each in arguments]
    assert message in error_here('infer.py', '--out', tmp_path / 'out', *arguments)


def test_a_label_map_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / 'a.png').mkdir()
    with pytest.raises(OSError, match=r'a\.png'):
        infer.segmentation(np.zeros((2, 3), np.int64), ['sky'], tmp_path / 'a.png')
