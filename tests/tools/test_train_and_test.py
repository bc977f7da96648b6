"""The two main tools, run as a user runs them, on a small generated data set."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config

from mmsec.models import SecViT
from mmsec.models.checkpoints.loading import load_pretrained
from tests.conftest import ROOT, SMALL_ARCH, run_tool, small_run

DETECTOR = 'mmdet/secvit_t_maskrcnn_shapes.py'
SEGMENTER = 'mmseg/secvit_t_upernet_shapes.py'


def last_metrics(work_dir: Path) -> dict:
    """What training printed at its last evaluation."""
    lines = [json.loads(line) for path in sorted(work_dir.glob('*/vis_data/2*.json')) for line in path.open()]
    return next(line for line in reversed(lines) if 'coco/bbox_mAP' in line or 'mIoU' in line)


@pytest.fixture(scope='module')
def detector(shapes, tmp_path_factory):
    """A detector that has learnt the validation images by heart: (config, work dir, what training printed)."""
    folder = tmp_path_factory.mktemp('detector')
    config = small_run(
        DETECTOR,
        shapes,
        folder,
        **{
            'train_cfg.max_epochs': 60,
            'train_cfg.val_interval': 60,
            'param_scheduler.1.T_max': 60,
            'param_scheduler.1.end': 60,
            'default_hooks.checkpoint.interval': 60,
            'train_dataloader.dataset.ann_file': 'annotations/instances_val2017.json',
            'train_dataloader.dataset.data_prefix.img': 'val2017/',
            'train_dataloader.batch_size': 2,
            'randomness.seed': 0,
            'optim_wrapper.optimizer.lr': 3e-3,
        },
    )
    result = run_tool('train.py', config, '--work-dir', folder / 'work')
    return config, folder / 'work', result.stdout


@pytest.fixture(scope='module')
def segmenter(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('segmenter')
    changes = {
        'train_cfg.max_iters': 40,
        'train_cfg.val_interval': 40,
        'default_hooks.checkpoint.interval': 20,
        'default_hooks.checkpoint.max_keep_ckpts': 2,
        'optim_wrapper.optimizer.lr': 3e-3,
    }
    config = small_run(SEGMENTER, shapes, folder, **changes)
    result = run_tool('train.py', config, '--work-dir', folder / 'work')
    return config, folder / 'work', result.stdout


def test_training_starts_with_a_summary(detector):
    _, work_dir, printed = detector
    block = printed[printed.index('training starts') :].splitlines()[:7]
    assert block[1] == '  batch size     2 = 2 an iteration and process x 1 processes x 1 accumulated'
    assert block[2].split() == ['learning', 'rate', '0.003', '(AdamW)']
    assert re.fullmatch(r'\s+parameters\s+[\d,]+ trained, 0 frozen', block[3])
    assert block[4].split() == ['device', 'cpu']
    assert block[5].split() == ['dtype', 'float32']
    assert block[6].split() == ['work', 'dir', str(work_dir)]


def test_the_detector_tests_as_it_trained(detector, tmp_path):
    config, work_dir, _ = detector
    trained = last_metrics(work_dir)
    assert trained['coco/bbox_mAP_50'] > 0.05, 'the comparison below would say nothing'
    run_tool(
        'test.py', config, work_dir / 'epoch_60.pth', '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out/m.json',
        '--show-dir', tmp_path / 'pictures',
    )  # fmt: skip
    measured = json.loads((tmp_path / 'out/m.json').read_text())
    for kind in ('bbox', 'segm'):
        assert measured[f'coco/{kind}_mAP'] == pytest.approx(trained[f'coco/{kind}_mAP'], abs=1e-6)
    pictures = sorted((tmp_path / 'pictures').iterdir())
    assert [path.name for path in pictures] == [f'{i:012d}.png' for i in range(9, 13)] + ['contact_sheet.png']
    assert cv2.imread(str(pictures[-1])).shape[1] == 1200
    height, width = cv2.imread(str(pictures[0])).shape[:2]
    assert width == 2 * height  # truth beside prediction


def test_the_segmenter_tests_as_it_trained(segmenter, tmp_path):
    config, work_dir, _ = segmenter
    trained = last_metrics(work_dir)
    assert trained['mIoU'] > 0
    run_tool(
        'test.py', config, work_dir / 'iter_40.pth', '--work-dir', tmp_path / 'work', '--out', tmp_path / 'm.json',
        '--show-dir', tmp_path / 'pictures',
    )  # fmt: skip
    assert json.loads((tmp_path / 'm.json').read_text())['mIoU'] == pytest.approx(trained['mIoU'], abs=1e-6)
    assert len(list((tmp_path / 'pictures').iterdir())) == 4 + 1
    assert cv2.imread(str(tmp_path / 'pictures/contact_sheet.png')).shape[1] == 1200


@pytest.mark.parametrize(('run', 'iteration'), [('detector', 120), ('segmenter', 40)])
def test_clusters_are_drawn_at_each_evaluation(request, run, iteration):
    _, work_dir, _ = request.getfixturevalue(run)
    sheets = sorted(path.name for path in work_dir.glob('*/vis_data/vis_image/*.png'))
    assert sheets == [f'clusters_{image:012d}_{iteration}.png' for image in (9, 12)]


def test_test_time_augmentation_and_predictions_file(segmenter, tmp_path):
    config, work_dir, _ = segmenter
    scales = [dict(type='Resize', scale_factor=ratio, keep_ratio=True) for ratio in (0.5, 1.0)]
    text = config.read_text()
    path = tmp_path / 'tta.py'
    path.write_text(text + f"\ntta_pipeline[1]['transforms'][0] = {scales!r}\n")
    result = run_tool(
        'test.py', path, work_dir / 'iter_40.pth', '--work-dir', tmp_path / 'work', '--tta',
        '--out', tmp_path / 'p.pkl', '--show-dir', tmp_path / 'pictures',
    )  # fmt: skip
    assert 'no contact sheet under test-time augmentation' in result.stdout
    assert len(list((tmp_path / 'pictures').iterdir())) == 4
    (ran,) = (tmp_path / 'work').glob('*/vis_data/config.py')
    assert Config.fromfile(ran).model.type == 'SegTTAModel'
    assert Config.fromfile(ran).test_dataloader.dataset.pipeline[1].type == 'TestTimeAug'
    assert len(pickle.loads((tmp_path / 'p.pkl').read_bytes())) == 4


def test_checkpoints_hold_plain_values_and_load_into_a_backbone(detector):
    _, work_dir, _ = detector
    checkpoint = torch.load(work_dir / 'epoch_60.pth', weights_only=True)
    backbone = SecViT(SMALL_ARCH)
    load_pretrained(backbone, work_dir / 'epoch_60.pth')
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, checkpoint['state_dict'][f'backbone.{key}'])


def test_a_killed_run_goes_on_where_it_was(shapes, tmp_path):
    config = small_run(DETECTOR, shapes, tmp_path, **{'train_cfg.max_epochs': 4, 'train_cfg.val_interval': 9})
    work_dir = tmp_path / 'work'
    command = [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', work_dir]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (work_dir / 'last_checkpoint').exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    saved = int(re.search(r'epoch_(\d+)', (work_dir / 'last_checkpoint').read_text())[1])
    assert saved < 4, 'the run ended before it was killed'
    resumed = run_tool('train.py', config, '--work-dir', work_dir, '--resume', 'auto')
    assert f'resumed epoch: {saved}' in resumed.stdout
    assert re.findall(r'Epoch\(train\)\s+\[(\d)\]', resumed.stdout)[0] == str(saved + 1)
    assert (work_dir / 'epoch_4.pth').exists()


def test_resume_without_a_checkpoint_starts_anew_and_from_a_path_goes_on(segmenter, shapes, tmp_path):
    _, work_dir, _ = segmenter
    config = small_run(SEGMENTER, shapes, tmp_path, **{'train_cfg.max_iters': 22})
    result = run_tool('train.py', config, '--work-dir', tmp_path / 'work', '--resume', work_dir / 'iter_20.pth')
    assert 'resumed epoch: 0, iter: 20' in result.stdout


def test_resume_auto_says_that_it_starts_from_scratch_and_refuses_another_config(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path, **{'train_cfg.max_iters': 2, 'train_cfg.val_interval': 9})
    first = run_tool('train.py', config, '--work-dir', tmp_path / 'work', '--resume')
    assert 'the run starts from scratch' in first.stdout
    options = ['--cfg-options', 'optim_wrapper.optimizer.lr=0.5']
    other = run_tool('train.py', config, '--work-dir', tmp_path / 'work', '--resume', *options, check=False)
    assert other.returncode == 1
    assert re.search(r"(?s)iter_2\.pth' was made by another config.*-.*'lr': 0\.0008.*\+.*'lr': 0\.5", other.stdout)
    all_the_same = ['--resume', tmp_path / 'work/iter_2.pth', *options, 'train_cfg.max_iters=3']
    assert 'iter: 2' in run_tool('train.py', config, '--work-dir', tmp_path / 'work', *all_the_same).stdout
    assert 'download it first' in one_line_error('tools/train.py', config, '--cfg-options', 'load_from=https://a/b.pth')


@pytest.mark.parametrize('name', [DETECTOR, SEGMENTER])
def test_bfloat16(shapes, tmp_path, name):
    config = small_run(name, shapes, tmp_path, **{'train_cfg.val_interval': 9})
    result = run_tool('train.py', config, '--work-dir', tmp_path / 'work', '--amp', 'bf16')
    assert re.search(r'dtype\s+bfloat16', result.stdout)
    losses = re.findall(r' loss: ([\d.naif]+)', result.stdout)
    assert losses
    assert all(float(loss) < 100 for loss in losses)


def test_compile_in_a_config_works_through_the_runner(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path, **{'train_cfg.val_interval': 9})
    losses = []
    for options in ([], ['--cfg-options', 'compile.backend=aot_eager']):
        result = run_tool('train.py', config, '--work-dir', tmp_path / str(len(options)), *options)
        assert ('Model has been "compiled"' in result.stdout) == bool(options)
        losses.append([float(loss) for loss in re.findall(r' loss: ([\d.]+)', result.stdout)])
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_bare_amp_means_fp16(shapes, tmp_path):
    config = small_run(DETECTOR, shapes, tmp_path)
    code = (
        'import sys; sys.argv[0] = "train.py"; sys.path.insert(0, "tools"); import train; '
        'cfg = train.configure(train.parse_args()); print(dict(cfg.optim_wrapper))'
    )
    result = subprocess.run(
        [sys.executable, '-c', code, config, '--amp', '--auto-scale-lr'], cwd=ROOT, capture_output=True, text=True
    )
    assert "'type': 'AmpOptimWrapper'" in result.stdout, result.stderr
    assert "'dtype': 'float16'" in result.stdout
    assert "'clip_grad': {'max_norm': 5.0}" in result.stdout


def test_the_learning_rate_scales_with_the_batch(shapes, tmp_path):
    config = small_run(DETECTOR, shapes, tmp_path, **{'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 9})
    result = run_tool(
        'train.py', config, '--work-dir', tmp_path / 'work', '--auto-scale-lr', '--cfg-options',
        'optim_wrapper.optimizer.lr=1e-3', 'auto_scale_lr.base_batch_size=16',
    )  # fmt: skip
    assert re.search(r'learning rate\s+0\.00025 ', result.stdout)  # 4 of 16 images


@pytest.mark.parametrize('tool', ['train.py', 'test.py', 'make_shapes.py', 'convert_checkpoint.py', 'demo.py'])
def test_help(tool):
    assert run_tool(tool, '--help').stdout.startswith('usage:')


def one_line_error(*command) -> str:
    """Run a tool that must fail with one line on stderr."""
    result = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line and 'Warning' not in line and 'warn' not in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


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


def test_a_checkpoint_of_another_size_is_refused(detector, segmenter):
    config, _, _ = detector
    _, work_dir, _ = segmenter
    result = run_tool('test.py', config, work_dir / 'iter_40.pth', '--work-dir', work_dir / 'other', check=False)
    assert result.returncode != 0
    assert "iter_40.pth' does not fit the config" in result.stdout
    assert 'Traceback' not in result.stdout


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
    assert "instances_val2017.json' is not JSON" in train()
    assert (work_dir / 'epoch_60.pth').read_bytes() == before
    assert set(logs) <= set(work_dir.glob('*/*.log'))


def test_a_checkpoint_converts_both_ways(detector, tmp_path):
    _, work_dir, _ = detector
    for source in (work_dir / 'epoch_60.pth', ROOT / 'tests/data/secvit_official_tiny.pth'):
        target = tmp_path / 'new' / f'{source.stem}.pth'
        result = run_tool('model_converters/convert_checkpoint.py', source, target)
        assert str(target) in result.stdout
        direct, converted = SecViT(SMALL_ARCH), SecViT(SMALL_ARCH)
        load_pretrained(direct, source)
        load_pretrained(converted, target)
        for a, b in zip(direct.state_dict().values(), converted.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    assert os.listdir(tmp_path / 'new') == [p.name for p in (tmp_path / 'new').iterdir() if p.suffix == '.pth']


def test_a_file_without_secvit_is_not_converted(tmp_path):
    torch.save({'state_dict': {'fc.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    result = run_tool(
        'model_converters/convert_checkpoint.py', tmp_path / 'other.pth', tmp_path / 'out.pth', check=False
    )
    assert 'holds no SecViT' in result.stdout
    assert not (tmp_path / 'out.pth').exists()
