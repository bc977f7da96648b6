"""What a user can get wrong is one line."""

import re
import shutil

import cv2
import pytest
from mmengine.config import Config

from tests.conftest import DETECTOR, SEGMENTER, error_here, run_here, small_run


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('test.py', ['absent.py', 'absent.pth'], "config 'absent.py' not found"),
        ('test.py', ['CONFIG', 'absent.pth'], "checkpoint 'absent.pth' not found"),
        ('train.py', ['CONFIG', '--cfg-options', 'train_dataloader.dataset.data_root=absent'], "'absent' not found"),
        ('train.py', ['CONFIG', '--cfg-options', 'modle.x=1'], "no 'modle' in the config"),
        ('train.py', ['CONFIG', '--cfg-options', 'model.backbone.arhc=tiny'], "Did you mean 'arch'?"),
        (
            'train.py',  # said before the data, which are not here, are looked for
            ['configs/mmdet/secvit_t_maskrcnn.py', '--cfg-options', 'model.backbone.arch=base'],
            'model.neck.in_channels=[64, 128, 256, 512] does not fit the maps',
        ),
        ('train.py', ['CONFIG', '--cfg-options', 'load_from=ftp://a/b.pth'], 'expected https://HOST/FILE'),
        ('model_converters/convert_checkpoint.py', ['absent.pth', 'x.pth'], "checkpoint 'absent.pth' not found"),
    ],
)
def test_missing_things_are_named_in_one_line(shapes, tmp_path, tool, arguments, message):
    config = small_run(DETECTOR, shapes, tmp_path)
    assert message in error_here(tool, *(config if each == 'CONFIG' else each for each in arguments))


def test_a_broken_training_image_is_left_out_until_there_are_too_many(shapes, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(shapes, data)
    broken = data / 'ade/images/training/000000000001.jpg'
    broken.write_bytes(broken.read_bytes()[:500])
    grey = data / 'ade/images/training/000000000002.jpg'
    cv2.imwrite(str(grey), cv2.imread(str(grey), cv2.IMREAD_GRAYSCALE))
    config = small_run(SEGMENTER, data, tmp_path, **{'train_cfg.val_interval': 9})
    error = error_here('train.py', config, '--work-dir', tmp_path / 'work')
    assert '1 of 8 samples that were looked at cannot be read, more than 10.0%' in error
    assert str(broken) in error
    hooks = Config.fromfile(config).custom_hooks
    (index,) = (i for i, hook in enumerate(hooks) if hook['type'] == 'mmsec.BrokenDataHook')
    options = f'custom_hooks.{index}.max_share=0.5'
    done = run_here('train.py', config, '--work-dir', tmp_path / 'work2', '--cfg-options', options)
    assert f"sample left out, '{broken}'" in done.stdout
    assert 'of the last 8 samples were broken and left out' in done.stdout
    assert '000000000002' not in done.stdout


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_its_images(shapes, tmp_path):
    config = small_run(DETECTOR, shapes, tmp_path, **{'train_cfg.max_epochs': 9, 'train_cfg.val_interval': 99})
    options = ['optim_wrapper.optimizer.lr=1e30', 'param_scheduler=[]']
    error = error_here('train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options', *options)
    assert re.search(r'error: iteration \d+: a (loss|gradient) is not finite, no weight was changed', error)
    assert error.count('.jpg') == 4


def test_broken_data_is_named_and_earlier_checkpoints_stay(detector, shapes, tmp_path):
    config, trained, _ = detector
    data, work_dir = tmp_path / 'data', tmp_path / 'work'
    shutil.copytree(shapes / 'coco', data)
    shutil.copytree(trained, work_dir)
    before, logs = (work_dir / 'epoch_60.pth').read_bytes(), set(work_dir.glob('*/*.log'))
    options = [f'train_dataloader.dataset.data_root={data}', 'train_cfg.max_epochs=61']

    def train():
        arguments = config, '--work-dir', work_dir, '--resume', 'auto', '--cfg-options', *options
        result = run_here('train.py', *arguments, check=False)
        assert result.returncode
        return result.stdout

    image = data / 'val2017/000000000010.jpg'
    image.write_bytes(b'no image')
    assert re.search(r'failed to load image: .*000000000010\.jpg', train())
    image.unlink()
    assert re.search(r'No such file.*000000000010\.jpg', train())
    (data / 'annotations/instances_val2017.json').write_text('{"images": [')
    assert "instances_val2017.json' is cut off or not JSON" in train()
    assert (work_dir / 'epoch_60.pth').read_bytes() == before
    assert logs <= set(work_dir.glob('*/*.log'))
