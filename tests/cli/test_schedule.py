"""The same training in another number of iterations."""

from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmsec.cli.schedule import train_in, train_iterations
from tests.conftest import DETECTOR, SEGMENTER, small_run


def test_a_schedule_of_iterations_is_stretched(shapes, tmp_path):
    cfg = Config.fromfile(small_run(SEGMENTER, shapes, tmp_path))
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, begin=0, end=2, by_epoch=False),
        dict(type='PolyLR', begin=2, end=4, by_epoch=False, eta_min=0.1),
        dict(type='MultiStepLR', milestones=[2, 3], by_epoch=False),
    ]
    cfg.default_hooks.logger.interval = 50
    assert train_iterations(cfg) == 4
    train_in(cfg, 40)
    assert train_iterations(cfg) == 40
    assert cfg.train_cfg.val_interval == 40
    warm, poly, steps = cfg.param_scheduler
    assert (warm.begin, warm.end, warm.start_factor) == (0, 20, 0.1)
    assert (poly.begin, poly.end, poly.eta_min) == (20, 40, 0.1)
    assert steps.milestones == [20, 30]
    assert cfg.default_hooks.checkpoint.interval == 10
    assert cfg.default_hooks.logger.interval == 4  # or a short run would say nothing of its time


def test_a_schedule_of_epochs_becomes_one_of_iterations(shapes, tmp_path):
    cfg = Config.fromfile(small_run(DETECTOR, shapes, tmp_path))
    init_default_scope('mmdet')
    cfg.train_dataloader.batch_size = 3
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, begin=0, end=2, by_epoch=False),
        dict(type='CosineAnnealingLR', begin=0, end=2, by_epoch=True, convert_to_iter_based=True),
    ]
    images = len(list((shapes / 'coco/train2017').iterdir()))
    whole = 2 * -(-images // 3)
    assert train_iterations(cfg) == whole
    train_in(cfg, 3 * whole)
    assert train_iterations(cfg) == 3 * whole
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert cfg.log_processor.by_epoch is False
    assert cfg.default_hooks.checkpoint.by_epoch is False
    warm, cosine = cfg.param_scheduler
    assert (warm.begin, warm.end) == (0, 6)
    assert (cosine.begin, cosine.end, cosine.by_epoch) == (0, 3 * whole, False)
    assert 'convert_to_iter_based' not in cosine
