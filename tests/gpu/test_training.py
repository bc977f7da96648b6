"""Training on a GPU: mixed precision, the check for bad numbers, a launcher."""

import copy
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from mmsec.engine.hooks.nan_guard import NaNGuardHook
from tests.conftest import ROOT, shrink_model, small_run
from tests.gpu.conftest import skip_without_gpu
from tests.test_configs import batch, load

skip_without_gpu()


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_a_shrunk_mask_rcnn_trains_in_mixed_precision(device, precision):
    if device == 'cpu' and precision == 'fp16':
        pytest.skip("MMEngine's AmpOptimWrapper refuses the CPU")
    cfg = load(Path('mmdet/secvit_t_maskrcnn.py'))
    shrink_model(cfg)
    cfg.optim_wrapper.type = 'AmpOptimWrapper' if precision == 'fp16' else 'mmsec.BFloat16OptimWrapper'
    if precision == 'fp16':
        cfg.optim_wrapper.update(dtype='float16', loss_scale='dynamic')
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.to(device).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    hook = NaNGuardHook()
    runner = types.SimpleNamespace(model=model, optim_wrapper=wrapper, iter=0, hooks=[])
    hook.before_train(runner)
    before = copy.deepcopy(model.state_dict())
    # The scaler starts at 65536 and halves. Gradients of the stem from random weights reach 1000, which float16 holds
    # up to a scale of 64: ten steps are skipped, or some more.
    steps = 0
    for runner.iter in range(20):
        hook.before_train_iter(runner, runner.iter)
        logged = model.train_step(batch(cfg), wrapper)
        hook.after_train_iter(runner, runner.iter)
        assert all(value.isfinite().all() for value in logged.values())
        steps += any(state['step'].item() > steps for state in wrapper.optimizer.state.values())
    assert steps >= 6
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert set(changed) >= {name for name, p in model.named_parameters() if p.requires_grad and p.dim() > 1}
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_check_for_bad_numbers_waits_once(cuda):
    model = nn.Linear(64, 64).to(cuda)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    forward = model.forward
    model.forward = lambda x: {f'loss_{i}': [forward(x).mean(), forward(x).sum()] for i in range(8)}
    hook = NaNGuardHook()
    runner = types.SimpleNamespace(
        model=model, optim_wrapper=types.SimpleNamespace(optimizer=optimizer), iter=0, hooks=[]
    )
    hook.before_train(runner)
    images = torch.randn(8, 64, device=cuda)
    for runner.iter in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            torch.cuda.set_sync_debug_mode('warn')
            try:
                hook.before_train_iter(runner, 0)
                sum(sum(values) for values in model(images).values()).backward()
                optimizer.step()
                hook.after_train_iter(runner, 0)
            finally:
                torch.cuda.set_sync_debug_mode('default')
    assert sum('synchroniz' in str(warning.message) for warning in caught) == 1


def test_one_process_of_a_launcher_trains(device, shapes, tmp_path):
    config = small_run('mmseg/secvit_t_upernet_shapes.py', shapes, tmp_path)
    launcher = ['torch.distributed.run', '--nproc-per-node=1', '--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0']
    options = ['--work-dir', tmp_path / 'work', '--launcher', 'pytorch']
    result = subprocess.run(
        [sys.executable, '-m', *launcher, '--master-port=0', ROOT / 'tools/train.py', config, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        env={**os.environ, 'NCCL_DEBUG': 'VERSION'},
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert (tmp_path / 'work/iter_4.pth').exists()
    assert ('NCCL version' in result.stdout) == (device == 'cuda')
