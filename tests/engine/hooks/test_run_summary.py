"""The learning rate and the batch size that it is for."""

import logging

import pytest
import torch
from mmengine.runner import Runner

from mmsec.cli.resume import go_on, newest_whole_checkpoint
from mmsec.engine.hooks.run_summary import RunSummaryHook
from tests.engine.toy_run import config

LR = 1e-2


def run(work_dir, iterations, batch_size, base, enable, accumulate=1):
    """Train the toy model and go on from what is in ``work_dir``; the runner and what was logged."""
    cfg = config(str(work_dir), iterations)
    cfg.train_dataloader.batch_size = batch_size
    cfg.optim_wrapper.update(accumulative_counts=accumulate)
    cfg.param_scheduler[0].update(start_factor=0.5, end=2)  # the rate is whole from iteration 2 on
    cfg.auto_scale_lr = dict(base_batch_size=base, enable=enable) if base else None
    cfg.default_hooks.checkpoint.interval = 1
    found = newest_whole_checkpoint(work_dir)
    if found:
        go_on(cfg, *found)
    cfg.experiment_name = f'{work_dir.name}_{iterations}'  # or runs of one second would share their message hub
    runner = Runner.from_cfg(cfg)
    runner.register_hook(RunSummaryHook())
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    runner.logger.addHandler(handler)
    runner.train()
    return runner, '\n'.join(messages)


def rate(runner):
    return runner.optim_wrapper.optimizer.param_groups[0]['lr']


@pytest.mark.parametrize(
    ('accumulate', 'enable', 'factor', 'warned'),
    [(1, False, 1, True), (1, True, 0.25, False), (2, True, 0.5, False), (4, False, 1, False)],
)
def test_a_fresh_run_fits_the_rate_or_warns_with_both_numbers(tmp_path, accumulate, enable, factor, warned):
    runner, log = run(tmp_path, 4, batch_size=2, base=8, enable=enable, accumulate=accumulate)
    assert rate(runner) == pytest.approx(LR * factor)
    warning = f'the effective batch size is {2 * accumulate}, and the learning rate is for 8'
    assert (warning in log) == warned
    assert f'learning rate  {LR * factor:g} ' in log
    saved = torch.load(tmp_path / 'iter_4.pth', weights_only=True)['message_hub']['runtime_info']['effective_batch']
    assert saved == {'size': 2 * accumulate, 'processes': 1, 'learning_rate_for': 2 * accumulate if enable else 8}


def test_a_config_without_a_base_batch_size_is_left_alone(tmp_path):
    runner, log = run(tmp_path, 3, batch_size=2, base=None, enable=False)
    assert rate(runner) == pytest.approx(LR)
    assert 'effective batch size' not in log


def test_the_rate_of_a_resumed_run_is_scaled_to_its_batch_size(tmp_path):
    run(tmp_path, 4, batch_size=4, base=2, enable=True)
    runner, log = run(tmp_path, 5, batch_size=8, base=2, enable=True)
    assert 'the run goes on with a batch size of 8 on 1 processes; its checkpoint was made with 4 on 1' in log
    assert 'the learning rate was for a batch size of 4; times 2 it is for 8' in log
    assert rate(runner) == pytest.approx(LR * 4)
    assert runner.param_schedulers[0].base_values == pytest.approx([LR * 4])
    runner, log = run(tmp_path, 6, batch_size=8, base=2, enable=True)  # and only once
    assert 'the run goes on with' not in log
    assert rate(runner) == pytest.approx(LR * 4)
    runner, log = run(tmp_path, 7, batch_size=8, base=2, enable=False)  # the checkpoint has the fitting rate
    assert 'the effective batch size is' not in log
    assert rate(runner) == pytest.approx(LR * 4)


@pytest.mark.parametrize(('first', 'scaled'), [(1, True), (3, False)])
def test_a_run_that_is_resumed_scales_in_a_warm_up_and_where_it_did_not_before(tmp_path, first, scaled):
    _, log = run(tmp_path, first, batch_size=2 if scaled else 4, base=2, enable=scaled)
    assert ('the effective batch size is 4, and the learning rate is for 2' in log) == (not scaled)
    runner, log = run(tmp_path, 4, batch_size=4, base=2, enable=True)
    assert 'the learning rate was for a batch size of 2; times 2 it is for 4' in log
    assert rate(runner) == pytest.approx(LR * 2)


@pytest.mark.parametrize(
    ('saved', 'enable', 'message'),
    [
        (
            {'size': 8, 'processes': 2, 'learning_rate_for': 4},
            False,
            'a batch size of 4 on 1 processes; its checkpoint was made with 8 on 2. What is counted in iterations',
        ),
        ({}, True, '--auto-scale-lr: the checkpoint does not say which batch size its learning rate is for'),
    ],
)
def test_a_checkpoint_of_another_batch_size_or_none_is_named_and_the_rate_stays(tmp_path, saved, enable, message):
    run(tmp_path, 3, batch_size=4, base=4, enable=enable)
    path = tmp_path / 'iter_3.pth'
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['message_hub']['runtime_info']['effective_batch'] = saved
    torch.save(checkpoint, path)
    runner, log = run(tmp_path, 4, batch_size=4, base=4, enable=enable)
    assert message in log
    assert rate(runner) == pytest.approx(LR)
