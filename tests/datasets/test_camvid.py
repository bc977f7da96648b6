import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmsec.datasets.camvid import SPLITS, convert_camvid
from mmsec.errors import InputError
from tests.conftest import ROOT, error_here, run_here


@pytest.fixture
def original(tmp_path):
    """One image for training, two for validation, three for the test, each with all labels."""
    root = tmp_path / 'CamVid'
    for count, split in enumerate(SPLITS, start=1):
        for folder in (root / split, root / f'{split}annot'):
            folder.mkdir(parents=True)
        for i in range(count):
            labels = np.resize(np.arange(12, dtype=np.uint8), (6, 12 + i))
            cv2.imwrite(str(root / split / f'{i}.png'), np.full((*labels.shape, 3), (20, 90, 40 * i), np.uint8))
            cv2.imwrite(str(root / f'{split}annot' / f'{i}.png'), labels)
    return root


def test_unlabelled_is_ignored_and_all_other_labels_stay(original, tmp_path):
    out = tmp_path / 'out'
    assert convert_camvid(original, out) == {'train': 1, 'val': 2, 'test': 3}
    for count, split in enumerate(SPLITS, start=1):
        assert len(list((out / 'images' / split).iterdir())) == count
        for i in range(count):
            before = cv2.imread(str(original / f'{split}annot/{i}.png'), cv2.IMREAD_UNCHANGED)
            after = cv2.imread(str(out / f'annotations/{split}/{i}.png'), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(after == 255, before == 11)
            assert np.array_equal(after[before < 11], before[before < 11])
            image = cv2.imread(str(out / f'images/{split}/{i}.jpg'))
            assert abs(image.mean((0, 1)) - (20, 90, 40 * i)).max() < 4


@pytest.mark.parametrize('path', ['images/train/0.jpg', 'annotations/train/0.png'])
def test_what_cannot_be_written_is_an_error(original, tmp_path, path):
    (tmp_path / 'out' / path).mkdir(parents=True)
    with pytest.raises(OSError, match=path):
        convert_camvid(original, tmp_path / 'out')


def test_label_maps_with_a_palette_keep_their_numbers(original, tmp_path):
    path = original / 'trainannot/0.png'
    labels = np.array(Image.open(path))
    coloured = Image.fromarray(labels, mode='P')
    coloured.putpalette([each % 256 for each in range(7, 7 + 3 * 256)])
    coloured.save(path)
    convert_camvid(original, tmp_path / 'out')
    after = np.array(Image.open(tmp_path / 'out/annotations/train/0.png'))
    assert np.array_equal(after, np.where(labels == 11, 255, labels))


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda root: (root / 'valannot/1.png').unlink(), r"valannot/1\.png' cannot be read as an image"),
        (lambda root: (root / 'val/1.png').write_bytes(b'no'), r"val/1\.png' cannot be read as an image"),
        (
            lambda root: cv2.imwrite(str(root / 'valannot/1.png'), np.zeros((6, 9), np.uint8)),
            r"val/1\.png': expected \(6, 13\) labels, got shape \(6, 9\)",
        ),
        (
            lambda root: cv2.imwrite(str(root / 'valannot/1.png'), np.full((6, 13), 31, np.uint8)),
            r"val/1\.png' has the label 31, expected 0 to 11",
        ),
        (lambda root: (root / 'test').rename(root / 'other'), r"CamVid/test' has no PNG images\. Expected"),
    ],
)
def test_what_is_not_as_in_the_original_is_named(original, tmp_path, damage, message):
    damage(original)
    with pytest.raises(InputError, match=message):
        convert_camvid(original, tmp_path / 'out')


def test_the_tool_writes_what_the_config_reads(original, tmp_path):
    result = run_here('dataset_converters/camvid.py', original, tmp_path / 'camvid')
    assert '3 images in ' in result.stdout
    cfg = Config.fromfile(ROOT / 'configs/mmseg/secvit_t_upernet_camvid.py')
    assert cfg.model.decode_head.num_classes == len(cfg.train_dataloader.dataset.metainfo.classes) == 11
    for count, split in enumerate(SPLITS, start=1):
        dataset = cfg[f'{split}_dataloader'].dataset
        for key, suffix in (('img_path', dataset.img_suffix), ('seg_map_path', dataset.seg_map_suffix)):
            assert len(list((tmp_path / 'camvid' / dataset.data_prefix[key]).glob(f'*{suffix}'))) == count

    error = error_here('dataset_converters/camvid.py', tmp_path, tmp_path / 'out')
    assert "train' has no PNG images. Expected {train,val,test}/" in error
