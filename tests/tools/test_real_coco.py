"""The shipped COCO config on real COCO images, where the developers' shared folder has some."""

import json

import pytest

from tests.conftest import ROOT, run_tool

COCO_TINY = ROOT.parent / 'shared/coco_tiny'


@pytest.mark.skipif(not COCO_TINY.is_dir(), reason=f'no real COCO images here: {COCO_TINY} does not exist')
def test_mask_rcnn_trains_and_evaluates_on_real_images(tmp_path):
    options = {
        'model.backbone.init_cfg': None,
        'model.backbone.norm_eval': False,
        'train_cfg.max_epochs': 1,
        'randomness.seed': 0,
        'param_scheduler': [],  # no warm-up: the run is shorter than that
        'model.test_cfg.rcnn.score_thr': 0.0,  # after so few iterations nothing need reach the usual 0.05
        'model.test_cfg.rpn.max_per_img': 50,  # at that threshold all of them times 80 classes pass to NMS
        'default_hooks.logger.interval': 1,
        'train_dataloader.dataset.pipeline.1.scale': (320, 192),
    }
    for split in ('train', 'val', 'test'):
        options[f'{split}_dataloader.dataset.data_root'] = COCO_TINY
        options[f'{split}_dataloader.num_workers'] = 0
        options[f'{split}_dataloader.persistent_workers'] = False
    for split in ('val', 'test'):
        options[f'{split}_evaluator.ann_file'] = COCO_TINY / 'annotations/instances_val2017.json'
        options[f'{split}_dataloader.dataset.pipeline.1.scale'] = (320, 192)
    config = ROOT / 'configs/mmdet/secvit_t_maskrcnn.py'
    arguments = [f'{key}={str(value).replace(" ", "")}' for key, value in options.items()]
    run_tool('train.py', config, '--work-dir', tmp_path, '--cfg-options', *arguments)
    (log,) = tmp_path.glob('*/vis_data/2*.json')
    lines = [json.loads(line) for line in log.open()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) >= 15
    assert max(losses[-5:]) < 0.8 * losses[0]
    assert 'coco/segm_mAP' in lines[-1]
    assert (tmp_path / 'epoch_1.pth').exists()
