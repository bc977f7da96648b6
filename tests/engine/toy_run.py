"""python -m tests.engine.toy_run WORK_DIR MAX_ITERS [options]: a run of a few weights and our hooks.

It goes on as ``tools/train.py --resume auto`` does and prints what a test wants to know, a line each. Options:

    by_epoch            train epochs of 20 iterations (one process)
    val                 evaluate after each epoch (40 iterations where iterations are counted)
    interval=N          save each N epochs or iterations (1)
    save_minutes=M      of PreemptionHook
    workers=N           that load samples, persistent (2 by_epoch, otherwise none)
    val_samples=N       samples of the evaluation (40), not rounded up to the same number a process
    nan                 the loss of the 27th iteration is NaN
    fewer               the second process has data of 20 samples, not 40
    stale=PATH          the second process goes on from this file, as if it still saw it under the other's name
    dies_at_exit        the second process is killed when it leaves
    waits               for the end of stdin before training
    stops_at=N          sends itself a signal in iteration N
    SEED
"""

import atexit
import os
import random
import signal
import sys
import time
from typing import Any

if __name__ == '__main__':  # as tools/train.py
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmsec.engine.hooks  # noqa: F401
from mmsec.cli.resume import check_same_run, go_on, newest_whole_checkpoint
from mmsec.engine.hooks.rank_consistency import RankConsistencyHook
from mmsec.engine.processes import from_first, join_processes, run


@MODELS.register_module()
class ToyModel(BaseModel):
    """One linear layer, and enough dead weight that writing a checkpoint takes a while."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer('weight_to_write', torch.rand(1_000_000))

    def forward(self, inputs, data_samples=None, mode='loss') -> dict | list:
        if mode == 'predict':
            time.sleep(0.02)
            return data_samples
        loss = self.layer(torch.stack(inputs)).square().mean()
        if 'nan' in sys.argv and MessageHub.get_current_instance().get_info('iter') == 26:  # the 27th
            loss = loss * float('nan')
        return {'loss': loss}


@DATASETS.register_module()
class ToyData(Dataset):
    """Fixed samples, augmented at random."""

    metainfo: dict = {}

    def __init__(self, samples: int = 40) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        augmented = torch.rand(4, generator=generator) + torch.rand(4) + np.random.rand() + random.random()
        return {'inputs': augmented, 'data_samples': index}

    def __len__(self) -> int:
        return self.samples


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """Counts."""

    def process(self, data_batch, data_samples) -> None:
        print('evaluates', flush=True)
        self.results.extend(data_samples)

    def compute_metrics(self, results: list) -> dict:
        print('evaluated', len(results), flush=True)
        return {'count': len(results)}


class Report(Hook):
    """Prints each iteration, and which states of a resumed run are those that were saved."""

    priority = 'VERY_LOW'

    def __init__(self, resumed: str | None) -> None:
        self.resumed = resumed

    def before_train(self, runner) -> None:
        if not self.resumed:
            return
        saved = torch.load(self.resumed, weights_only=True)
        ema = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
        states = {
            'optimizer': (runner.optim_wrapper.state_dict(), saved['optimizer']),
            'schedule': ([each.state_dict() for each in runner.param_schedulers], saved['param_schedulers']),
            'average': (ema.ema_model.module.state_dict(), saved['state_dict']),
        }
        print('resumed', runner.iter, *(name for name, both in states.items() if same(*both)), flush=True)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        sums = [int(1e6 * each.sum()) for each in data_batch['inputs']]  # by which a test knows the augmentation
        print('iteration', runner.iter + 1, 'samples', *data_batch['data_samples'], *sums, flush=True)
        if f'stops_at={runner.iter + 1}' in sys.argv:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.02)


def config(work_dir: str, max_iters: int, **options: str) -> Config:
    """20 iterations of two samples are an epoch."""
    by_epoch = 'by_epoch' in options
    loop = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=40)
    if by_epoch:
        loop = dict(type='EpochBasedTrainLoop', max_epochs=max_iters // 20)
    workers = int(options.get('workers', 2 if by_epoch else 0))
    evaluation = dict(
        val_cfg=dict(type='ValLoop'),
        val_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False, round_up='val_samples' not in options),
            dataset=dict(type='ToyData', samples=int(options.get('val_samples', 40))),
        ),
        val_evaluator=dict(type='ToyMetric'),
    )
    checkpoint = dict(type='mmsec.AtomicCheckpointHook', by_epoch=by_epoch, max_keep_ckpts=2)
    checkpoint['interval'] = int(options.get('interval', 1))
    return Config(
        dict(
            **(evaluation if 'val' in options else {}),
            default_scope='mmengine',
            model=dict(type='ToyModel'),
            work_dir=work_dir,
            train_dataloader=dict(
                batch_size=2,
                num_workers=workers,
                persistent_workers=workers > 0,
                sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True),
                dataset=dict(type='ToyData'),
            ),
            train_cfg=loop,
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2)),
            param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100)],
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1000), checkpoint=checkpoint),
            custom_hooks=[
                dict(type='EMAHook'),
                dict(type='mmsec.PlainCheckpointHook'),
                dict(type='mmsec.PreemptionHook', save_minutes=float(options.get('save_minutes', 1000))),
                dict(type='mmsec.NaNGuardHook'),
                dict(type='mmsec.IterationSeedHook'),
            ],
        )
    )


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def main() -> None:
    """Run."""
    work_dir, max_iters = sys.argv[1], int(sys.argv[2])
    options = dict(option.split('=') if '=' in option else (option, '') for option in sys.argv[3:])
    cfg = config(work_dir, max_iters, **options)
    cfg.launcher = 'pytorch' if 'RANK' in os.environ else 'none'
    join_processes(cfg)
    found = from_first(lambda: newest_whole_checkpoint(work_dir))
    if len(sys.argv) > 3 and sys.argv[-1].isdigit():
        cfg.randomness = dict(seed=int(sys.argv[-1]))
    if found:
        go_on(cfg, *found)
        check_same_run(cfg, *found)
    if os.environ.get('RANK') == '1':
        cfg.load_from = options.get('stale', cfg.get('load_from'))
        cfg.train_dataloader.dataset.samples = 20 if 'fewer' in options else 40
        if 'dies_at_exit' in options:
            atexit.register(os.kill, os.getpid(), signal.SIGKILL)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(RankConsistencyHook())
    runner.register_hook(Report(found and found[0]))
    if 'waits' in options:
        print('waits', flush=True)
        sys.stdin.read()
    runner.train()
    print('finished', runner.iter, flush=True)


if __name__ == '__main__':
    run(main)
