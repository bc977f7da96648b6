"""What a user can get wrong is one line."""

import re
import subprocess

import cv2
from mmengine.config import Config

from tests.conftest import DETECTOR, SEGMENTER, one_line_error, run_tool, small_run


def test_missing_things_are_named_in_one_line(detector, shapes, tmp_path):
    config, _, _ = detector
    assert "config 'absent.py' not found" in one_line_error('tools/train.py', 'absent.py')
    assert "config 'absent.py' not found" in one_line_error('tools/test.py', 'absent.py', 'absent.pth')
    assert "checkpoint 'absent.pth' not found" in one_line_error('tools/test.py', config, 'absent.pth')
    assert "'absent' not found" in one_line_error(
        'tools/train.py', config, '--cfg-options', 'train_dataloader.dataset.data_root=absent'
    )
    assert "checkpoint 'absent.pth' not found" in one_line_error(
        'tools/model_converters/convert_checkpoint.py', 'absent.pth', tmp_path / 'x'
    )
    assert "no 'modle' in the config" in one_line_error('tools/train.py', config, '--cfg-options', 'modle.x=1')


def test_a_broken_training_image_is_left_out_until_there_are_too_many(shapes, tmp_path):
    data = tmp_path / 'data'
    subprocess.run(['cp', '-r', shapes, data], check=True)
    broken = data / 'ade/images/training/000000000001.jpg'
    assert broken.exists()
    broken.write_bytes(broken.read_bytes()[:500])
    grey = data / 'ade/images/training/000000000002.jpg'
    cv2.imwrite(str(grey), cv2.imread(str(grey), cv2.IMREAD_GRAYSCALE))
    config = small_run(SEGMENTER, data, tmp_path, **{'train_cfg.val_interval': 9})
    stopped = run_tool('train.py', config, '--work-dir', tmp_path / 'work', check=False)
    assert stopped.returncode == 1
    assert re.search(r'error: 1 samples were broken and left out, more than 1\.0% of the 8', stopped.stdout)
    assert f"sample left out, '{broken}'" in stopped.stdout
    hooks = Config.fromfile(config).custom_hooks
    (index,) = (i for i, hook in enumerate(hooks) if hook['type'] == 'mmsec.BrokenDataHook')
    options = f'custom_hooks.{index}.max_share=0.5'
    done = run_tool('train.py', config, '--work-dir', tmp_path / 'work2', '--cfg-options', options)
    assert 'of the last 8 samples were broken and left out' in done.stdout
    assert '000000000002' not in done.stdout


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_its_images(shapes, tmp_path):
    config = small_run(DETECTOR, shapes, tmp_path, **{'train_cfg.max_epochs': 9, 'train_cfg.val_interval': 99})
    options = ['optim_wrapper.optimizer.lr=1e30', 'param_scheduler=[]']
    result = run_tool('train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options', *options, check=False)
    assert result.returncode == 1
    error = result.stdout.splitlines()[-1]
    assert re.search(r'error: iteration \d+: a (loss|gradient) is not finite, no weight was changed', error)
    assert error.count('.jpg') == 4


def test_broken_data_is_named_and_earlier_checkpoints_stay(detector, shapes, tmp_path):
    config, work_dir, _ = detector
    data = tmp_path / 'data'
    subprocess.run(['cp', '-r', shapes / 'coco', data], check=True)
    options = [
        f'{part}={value}'
        for part, value in (
            ('train_dataloader.dataset.data_root', data),
            ('train_cfg.max_epochs', 61),
        )
    ]
    image = data / 'val2017/000000000010.jpg'
    before = (work_dir / 'epoch_60.pth').read_bytes()
    logs = sorted(work_dir.glob('*/*.log'))

    def train():
        arguments = config, '--work-dir', work_dir, '--resume', 'auto', '--cfg-options', *options
        result = run_tool('train.py', *arguments, check=False)
        assert result.returncode != 0
        return result.stdout

    image.write_bytes(b'no image')
    assert re.search(r'failed to load image: .*000000000010\.jpg', train())
    image.unlink()
    assert re.search(r'No such file.*000000000010\.jpg', train())
    (data / 'annotations/instances_val2017.json').write_text('{"images": [')
    assert "instances_val2017.json' is cut off or not JSON" in train()
    assert (work_dir / 'epoch_60.pth').read_bytes() == before
    assert set(logs) <= set(work_dir.glob('*/*.log'))
