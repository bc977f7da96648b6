"""Stock OpenMMLab on an old torch trains, resumes and evaluates; `make test-stock` runs this."""

import os
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.utils import get_installed_path

from tests.conftest import DETECTOR, ROOT, SEGMENTER, run_tool, small_run

# A user's own config for mmdetection's own train.py, which finds the backbone by custom_imports alone.
OWN = """_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmsec.models'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='mmsec.SecViT', arch='tiny'),
    neck=dict(in_channels=[64, 128, 256, 512]),
    roi_head=dict(bbox_head=dict(num_classes=4), mask_head=dict(num_classes=4)),
)
load, annotations = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
resize = dict(type='Resize', scale=(128, 128), keep_ratio=True)
keys = dict(meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
data = dict(data_root='{shapes}/coco/', metainfo=dict(classes=('disc', 'square', 'triangle', 'star')))
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(
    pipeline=[load, annotations, resize, dict(type='PackDetInputs')], indices=5,
    ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/'), **data))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    pipeline=[load, resize, annotations, dict(type='PackDetInputs', **keys)], indices=2,
    ann_file='annotations/instances_val2017.json', data_prefix=dict(img='val2017/'), **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{shapes}/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
"""


def weights(path: Path) -> dict:
    return torch.load(path, map_location='cpu')['state_dict']


@pytest.mark.parametrize(('name', 'metric'), [(DETECTOR, 'bbox_mAP'), (SEGMENTER, 'mIoU')])
def test_our_tools_train_resume_bit_for_bit_evaluate_and_predict(name, metric, shapes, tmp_path):
    config = small_run(name, shapes, tmp_path, **{'default_hooks.checkpoint.max_keep_ckpts': -1})
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    run_tool('train.py', config, '--work-dir', whole)
    first, last = sorted(whole.glob('*.pth'))
    run_tool('train.py', config, '--work-dir', parts, '--resume', first)
    expected, resumed = weights(last), weights(parts / last.name)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert metric in run_tool('test.py', config, last, '--work-dir', parts, '--show-dir', tmp_path / 'drawn').stdout
    assert (tmp_path / 'drawn/contact_sheet.png').is_file()
    images = sorted((shapes / 'coco/val2017').glob('*.jpg'))
    run_tool('infer.py', images[0].parent, config, last, '--out', tmp_path / 'predicted')
    assert {path.stem for path in (tmp_path / 'predicted').glob('*.json')} == {path.stem for path in images}


def test_train_py_of_mmdetection_trains_a_config_of_the_user(shapes, tmp_path):
    (tmp_path / 'own.py').write_text(OWN.format(shapes=shapes))
    tool = Path(get_installed_path('mmdet')) / '.mim/tools/train.py'
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, tool, 'own.py', '--work-dir', 'out']
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / 'out/epoch_1.pth').is_file()
    assert 'bbox_mAP' in result.stdout + result.stderr


def test_this_is_the_stock_set():
    assert mmdet.__version__ == '3.3.0'
    assert torch.__version__.startswith('2.1.')
