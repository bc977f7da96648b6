"""tools/test.py on what tools/train.py has trained."""

import json
import pickle
import shlex
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config

from tests.conftest import error_here, run_here


def last_metrics(work_dir: Path) -> dict:
    """What training printed at its last evaluation."""
    lines = [json.loads(line) for path in sorted(work_dir.glob('*/vis_data/2*.json')) for line in path.open()]
    return next(line for line in reversed(lines) if 'coco/bbox_mAP' in line or 'mIoU' in line)


@pytest.mark.parametrize(
    ('run', 'newest', 'keys', 'bound'),
    [
        ('detector', 'epoch_60.pth', ['coco/bbox_mAP_50', 'coco/bbox_mAP', 'coco/segm_mAP'], 0.05),
        ('segmenter', 'iter_40.pth', ['mIoU'], 0),
    ],
)
def test_what_was_trained_tests_as_it_trained(request, tmp_path, run, newest, keys, bound):
    config, work_dir, _ = request.getfixturevalue(run)
    trained = last_metrics(work_dir)
    assert trained[keys[0]] > bound, 'the comparison below would say nothing'
    out, pictures = tmp_path / 'out/m.json', tmp_path / 'pictures'
    paths = '--work-dir', tmp_path / 'work', '--out', out, '--show-dir', pictures
    printed = run_here('test.py', config, work_dir / newest, *paths).stdout
    rows = dict(line.split(maxsplit=1) for line in printed[printed.index('the test is over') :].splitlines()[1:])
    assert (rows['results'], rows['pictures']) == (str(out), str(pictures))
    assert rows['next'] == f'python tools/infer.py IMAGES {config} {work_dir / newest} --out DIR'
    measured = json.loads(out.read_text())
    assert {key: measured[key] for key in keys} == pytest.approx({key: trained[key] for key in keys}, abs=1e-6)
    names = sorted(path.name for path in pictures.iterdir())
    assert names == [f'{i:012d}.png' for i in range(9, 13)] + ['contact_sheet.png']
    assert cv2.imread(str(pictures / names[-1])).shape[1] == 1200
    height, width = cv2.imread(str(pictures / names[0])).shape[:2]
    assert width == 2 * height  # truth beside prediction


def test_a_detector_that_finds_nothing_has_ap_0(detector, tmp_path):
    config, work_dir, _ = detector
    scale = 'test_dataloader.dataset.pipeline.1.scale=(64, 64)'
    options = ['--cfg-options', 'model.test_cfg.rcnn.score_thr=1.1', scale]
    paths = '--work-dir', tmp_path, '--out', tmp_path / 'm.json'
    printed = run_here('test.py', config, work_dir / 'epoch_60.pth', *paths, *options).stdout
    assert printed.rstrip().endswith(shlex.join(options)), 'what comes next has the same options'
    measured = json.loads((tmp_path / 'm.json').read_text())
    assert [measured[f'coco/{kind}_{name}'] for kind in ('bbox', 'segm') for name in ('mAP', 'mAP_75', 'mAP_l')] == [
        0
    ] * 6


@pytest.mark.parametrize('options', [[], ['--logits']])
def test_predictions_are_labels_and_logits_where_asked_for(segmenter, tmp_path, options):
    config, work_dir, _ = segmenter
    run_here('test.py', config, work_dir / 'iter_40.pth', '--work-dir', tmp_path, '--out', tmp_path / 'p.pkl', *options)
    predictions = pickle.loads((tmp_path / 'p.pkl').read_bytes())
    assert [each['pred_sem_seg']['data'].shape for each in predictions] == [(1, 64, 64)] * 4
    assert ['seg_logits' in each for each in predictions] == [bool(options)] * 4


def test_predictions_of_a_detector_have_masks_as_run_lengths(detector, tmp_path):
    config, work_dir, _ = detector
    run_here('test.py', config, work_dir / 'epoch_60.pth', '--work-dir', tmp_path, '--out', tmp_path / 'p.pkl')
    predictions = pickle.loads((tmp_path / 'p.pkl').read_bytes())
    assert {tuple(mask['size']) for each in predictions for mask in each['pred_instances']['masks']} == {(64, 64)}


@pytest.mark.parametrize(
    ('run', 'options', 'message'),
    [
        ('detector', ['--tta'], 'mmdetection merges boxes, and no masks'),
        ('segmenter', ['--tta', '--cfg-options', 'tta_pipeline=None'], 'has no tta_pipeline'),
        ('segmenter', ['--cfg-options', 'runner_type=FlexibleRunner'], 'without a strategy'),
        ('segmenter', ['--cfg-options', 'strategy.type=FSDPStrategy'], 'without a strategy'),
        ('segmenter', ['--cfg-options', 'runner_type=NoRunner'], 'without a strategy'),
    ],
)
def test_what_a_model_or_the_tools_do_not_have_is_refused(request, run, options, message):
    config, work_dir, _ = request.getfixturevalue(run)
    assert message in error_here('test.py', config, next(work_dir.glob('*.pth')), *options)


def test_test_time_augmentation_and_predictions_file(segmenter, tmp_path):
    config, work_dir, _ = segmenter
    scales = [dict(type='Resize', scale_factor=ratio, keep_ratio=True) for ratio in (0.5, 1.0)]
    text = config.read_text()
    path = tmp_path / 'tta.py'
    repeated = "dict(type='RepeatDataset', times=2, dataset=test_dataloader['dataset'])"
    path.write_text(
        text + f"\ntta_pipeline[1]['transforms'][0] = {scales!r}\n"
        f"test_dataloader['dataset'] = dict(type='ConcatDataset', datasets=[{repeated}, val_dataloader['dataset']])\n"
    )
    result = run_here(
        'test.py', path, work_dir / 'iter_40.pth', '--work-dir', tmp_path / 'work', '--tta',
        '--out', tmp_path / 'p.pkl', '--show-dir', tmp_path / 'pictures',
    )  # fmt: skip
    assert 'no contact sheet under test-time augmentation' in result.stdout
    assert len(list((tmp_path / 'pictures').iterdir())) == 4
    (ran,) = (tmp_path / 'work').glob('*/vis_data/config.py')
    assert Config.fromfile(ran).model.type == 'SegTTAModel'
    repeated, plain = Config.fromfile(ran).test_dataloader.dataset.datasets
    assert [each.pipeline[1].type for each in (repeated.dataset, plain)] == ['TestTimeAug'] * 2
    assert len(pickle.loads((tmp_path / 'p.pkl').read_bytes())) == 12


def test_a_checkpoint_of_another_size_is_refused(detector, segmenter):
    config, _, _ = detector
    _, work_dir, _ = segmenter
    error = error_here('test.py', config, work_dir / 'iter_40.pth', '--work-dir', work_dir / 'other')
    assert "iter_40.pth' does not fit the config" in error
