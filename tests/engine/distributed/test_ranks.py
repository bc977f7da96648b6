"""What two processes have in common and what they do not."""

import random
import types
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from mmcv.cnn.bricks import DropPath
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmsec.engine.hooks.nan_guard import NaNGuardHook
from mmsec.errors import InputError


def in_two_processes(worker, folder: Path) -> list:
    """What ``worker(rank, folder)`` returns in each of two processes of a gloo group."""
    torch.multiprocessing.spawn(_run, (worker, folder), nprocs=2)
    return [torch.load(folder / f'{rank}.pth') for rank in range(2)]


def _run(rank: int, worker, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    torch.save(worker(rank, folder), folder / f'{rank}.pth')
    torch.distributed.destroy_process_group()


def left_out(rank: int, folder: Path) -> dict:
    """Iterations whose loss is bad on the second process alone, and has finite gradients."""
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logged = []
    runner = types.SimpleNamespace(
        model=model,
        optim_wrapper=types.SimpleNamespace(optimizer=optimizer),
        iter=0,
        hooks=[],
        logger=types.SimpleNamespace(error=logged.append, warning=logged.append),
    )
    hook = NaNGuardHook(max_bad_batches=1)
    forward = model.forward
    model.forward = lambda inputs: {'loss': forward(inputs).sum() + constant}
    hook.before_train(runner)
    weights, error = [], ''
    for runner.iter in range(4):
        constant = float('nan') if rank == 1 and runner.iter in (1, 3) else 0.0
        hook.before_train_iter(runner, 0)
        optimizer.zero_grad()
        model(torch.ones(1))['loss'].backward()
        try:
            optimizer.step()
        except InputError as stopped:
            error = f'{runner.iter}: {stopped}'
        hook.after_train_iter(runner, 0)
        weights.append(model.weight.item())
    return {'weights': weights, 'logged': logged, 'error': error}


def test_a_batch_that_is_bad_on_one_process_is_left_out_on_all_and_stops_all(tmp_path):
    first, second = in_two_processes(left_out, tmp_path)
    weights = [round(weight, 5) for weight in first['weights']]
    assert weights == [round(weight, 5) for weight in second['weights']] == [0.9, 0.9, 0.8, 0.8]
    assert 'iteration 2: a loss of another process is not finite' in first['logged'][0]
    assert 'iteration 2: a loss is not finite' in second['logged'][0]
    assert first['error'].startswith('3: iteration 4: a loss of another process is not finite')
    assert second['error'].startswith('3: iteration 4: a loss is not finite')


class DropModel(BaseModel):
    """A layer, random weights, drop path over 64 samples, and what mixes images draws."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.drop_path = DropPath(0.5)

    def forward(self, inputs, data_samples=None, mode='loss') -> dict:
        self.mask = self.drop_path(torch.ones(64, 1)).flatten().tolist()
        self.mixture = [np.random.rand(), random.random()]
        return {'loss': self.layer(torch.stack(inputs)).square().mean()}


class Data(torch.utils.data.Dataset):
    """40 samples."""

    def __getitem__(self, index: int) -> dict:
        return {'inputs': torch.ones(1), 'data_samples': index}

    def __len__(self) -> int:
        return 40


class Record(Hook):
    """What a run drew."""

    def before_train(self, runner) -> None:
        self.weight = runner.model.layer.weight.item()
        self.masks, self.mixtures, self.samples = {}, {}, {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.masks[runner.iter] = runner.model.mask
        self.mixtures[runner.iter] = runner.model.mixture
        self.samples[runner.iter] = data_batch['data_samples']


def drawn(rank: int, folder: Path) -> dict:
    """What a run with the hook drew, its first weight, and the same of its continuation and of a run without it."""
    found = {}
    for name, hooks, iterations, resume in (
        ('with', ['mmsec.IterationSeedHook'], 6, None),
        ('resumed', ['mmsec.IterationSeedHook'], 6, 'iter_3.pth'),
        ('without', [], 6, None),
    ):
        runner = Runner(
            dict(type=DropModel),
            work_dir=str(folder / f'{name}{rank}'),
            train_dataloader=dict(
                batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True), dataset=Data()
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            default_hooks=dict(
                checkpoint=dict(type='mmsec.AtomicCheckpointHook', by_epoch=False, interval=3),
                logger=dict(type='LoggerHook', interval=1000),
            ),
            custom_hooks=[dict(type=each) for each in ('mmsec.PlainCheckpointHook', *hooks)],
            load_from=str(folder / 'with0' / resume) if resume else None,
            resume=bool(resume),
            randomness=dict(seed=5),
            experiment_name=name,
            log_level='ERROR',
        )
        record = Record()
        runner.register_hook(record)
        runner.train()
        found[name] = {
            'weight': record.weight, 'masks': record.masks, 'mixtures': record.mixtures, 'samples': record.samples
        }  # fmt: skip
    return found


def test_what_an_iteration_draws_differs_by_process_and_goes_on_when_a_run_does(tmp_path):
    first, second = in_two_processes(drawn, tmp_path)
    for what in ('masks', 'mixtures'):
        assert first['without'][what] == second['without'][what]  # what the hook is for
    masks = [tuple(mask) for each in (first, second) for mask in each['with']['masks'].values()]
    assert len(set(masks)) == len(masks) == 12
    mixtures = [value for each in (first, second) for values in each['with']['mixtures'].values() for value in values]
    assert len(set(mixtures)) == len(mixtures) == 24
    assert first['with']['weight'] == second['with']['weight'] == first['without']['weight']
    for each in (first, second):
        assert each['with']['samples'] == each['without']['samples']
        assert sorted(each['resumed']['masks']) == [3, 4, 5]
        for what in ('masks', 'mixtures', 'samples'):
            assert each['resumed'][what] == {i: each['with'][what][i] for i in (3, 4, 5)}
    assert first['with']['samples'] != second['with']['samples']
