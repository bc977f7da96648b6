"""The same training in another number of iterations, and warm-ups that a run has no time for."""

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmsec.cli.schedule import check_warm_up, train_in, train_iterations
from mmsec.errors import InputError
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


LINEAR = dict(type='LinearLR', start_factor=0.01, by_epoch=False)


@pytest.mark.parametrize(
    ('scheduler', 'refused'),
    [
        (LINEAR | dict(end=10), False),
        (LINEAR | dict(end=11), True),
        (LINEAR, True),  # without end
        (LINEAR | dict(end=11, start_factor=1.0, end_factor=0.1), False),  # a rate that falls
        (LINEAR | dict(begin=5, end=500), False),
        (LINEAR | dict(end=2), False),
        (dict(type='LinearLR', end=2), False),  # by epochs
        (dict(type='LinearLR', end=3, convert_to_iter_based=True), True),
        (dict(type='ConstantLR', factor=0.1, end=11, by_epoch=False), True),
        (dict(type='mmdet.QuadraticWarmupLR', end=11, by_epoch=False), True),
        (dict(type='CosineAnnealingLR', end=500, by_epoch=False), False),
    ],
)
@pytest.mark.parametrize('train_cfg', [dict(max_epochs=2), dict(max_iters=10)])
def test_a_warm_up_that_is_longer_than_the_run_is_refused(scheduler, refused, train_cfg):
    cfg = Config(dict(train_dataloader=dict(batch_size=2), train_cfg=train_cfg, param_scheduler=[scheduler]))
    if refused:
        with pytest.raises(InputError, match=r'^param_scheduler\.0: the warm-up takes .* Set param_scheduler\.0\.end'):
            check_warm_up(cfg, 9)  # 5 batches an epoch
    else:
        check_warm_up(cfg, 9)
    cfg.param_scheduler = dict(scheduler)
    if refused:
        with pytest.raises(InputError, match=r'Set param_scheduler\.end'):
            check_warm_up(cfg, 9)


@pytest.mark.parametrize(
    ('scheduler', 'message'),
    [
        (LINEAR | dict(end=1), r'the warm-up takes one step, .* Set param_scheduler\.0\.end'),
        (dict(type='ConstantLR', factor=0.1, end=1), 'the warm-up takes one step'),  # an epoch, and no step in it
        (dict(type='LinearLR', end=1, convert_to_iter_based=True), None),  # the 5 iterations of an epoch
        (dict(type='mmdet.QuadraticWarmupLR', end=1, by_epoch=False), None),  # which is at its end at once
        (LINEAR | dict(end=0), r'begins at 0 and ends at 0, and takes no step'),
        (dict(type='PolyLR', begin=2, end=2), r'param_scheduler\.0 begins at 2 and ends at 2, .* train longer'),
    ],
)
def test_a_part_of_a_schedule_that_takes_no_step_is_refused(scheduler, message):
    cfg = Config(
        dict(train_dataloader=dict(batch_size=2), train_cfg=dict(max_epochs=2), param_scheduler=[dict(scheduler)])
    )
    if message is None:
        check_warm_up(cfg, 9)
    else:
        with pytest.raises(InputError, match=message):
            check_warm_up(cfg, 9)


def test_a_schedule_that_is_cut_short_keeps_a_warm_up_that_ends():
    schedulers = [LINEAR | dict(end=10), dict(type='PolyLR', begin=10, end=100, by_epoch=False)]
    hooks = dict(checkpoint=dict(), logger=dict())
    cfg = Config(dict(train_cfg=dict(max_iters=100), param_scheduler=schedulers, default_hooks=hooks))
    train_in(cfg, 4)
    cfg.train_dataloader = dict(batch_size=2)
    check_warm_up(cfg, 9)


def test_of_data_that_nobody_counted_a_warm_up_by_iterations_is_not_judged():
    cfg = Config(dict(train_dataloader={}, train_cfg=dict(max_epochs=2), param_scheduler=[LINEAR | dict(end=11)]))
    check_warm_up(cfg, None)
