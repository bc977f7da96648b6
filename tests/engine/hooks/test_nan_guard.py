import types

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmsec import compat
from mmsec.engine.hooks.nan_guard import NaNGuardHook
from mmsec.errors import InputError
from tests.engine import in_two_processes

FUSED = [(torch.optim.AdamW, dict(fused=True))] if compat.FUSED_ON_CPU else []


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.norm = nn.BatchNorm1d(2, affine=False)
        self.constant = 0.0

    def forward(self, inputs, data_samples=None, mode='loss'):
        if mode != 'loss':
            return [inputs]
        self.norm(inputs.expand(2, 2))
        return {'loss_a': (self.weight * inputs).sum() + self.constant, 'loss_b': [torch.zeros(()), torch.ones(())]}


class Run:
    """A run without MMEngine's loop."""

    def __init__(self, max_bad_batches=0, optimizer=torch.optim.SGD, **options):
        self.model = Model()
        self.optimizer = optimizer(self.model.parameters(), lr=0.5, **options)
        self.hook = NaNGuardHook(max_bad_batches)
        self.logged = []
        self.runner = types.SimpleNamespace(
            model=self.model,
            optim_wrapper=types.SimpleNamespace(optimizer=self.optimizer),
            iter=6,
            hooks=[self.hook],
            logger=types.SimpleNamespace(error=self.logged.append, warning=self.logged.append),
        )
        self.hook.before_train(self.runner)

    def step(self, inputs, change=lambda: None, scaler=None, update=True):
        """One iteration on the given inputs; returns the weight after it."""
        samples = [types.SimpleNamespace(img_path='a.jpg'), types.SimpleNamespace(img_path='b.jpg')]
        self.hook.before_train_iter(self.runner, 0)
        self.optimizer.zero_grad()
        losses = self.model(inputs=inputs, data_samples=samples, mode='loss')
        (scaler.scale(losses['loss_a']) if scaler else losses['loss_a']).backward()
        change()
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        elif update:
            self.optimizer.step()
        self.hook.after_train_iter(self.runner, 0)
        self.runner.iter += 1
        return self.model.weight.detach().clone()


class Waits(TorchDispatchMode):
    """Counts how often a number is asked for, for which a host waits on another device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_bad_loss_stops_before_a_weight_changes(bad):
    run = Run()
    assert torch.equal(run.step(torch.ones(2)), torch.full((2,), 0.5))
    with pytest.raises(InputError) as caught:
        run.step(torch.tensor([1.0, bad]))
    assert 'iteration 8: a loss is not finite' in str(caught.value)
    assert f'loss_a {bad:g}, loss_b 1' in str(caught.value)
    assert 'a.jpg, b.jpg' in str(caught.value)
    assert 'Nothing was saved, because the run has no mmsec.AtomicCheckpointHook' in str(caught.value)
    assert torch.equal(run.model.weight, torch.full((2,), 0.5))
    assert all(buffer.isfinite().all() for buffer in run.model.buffers())


@pytest.mark.parametrize('what', ['loss', 'gradient'])
@pytest.mark.parametrize(
    ('optimizer', 'options'),
    [(torch.optim.SGD, dict(momentum=0.9)), (torch.optim.AdamW, dict()), *FUSED],
)
def test_bad_batches_are_left_out_without_a_trace_until_there_are_too_many(what, optimizer, options):
    def bad():
        if what == 'loss':
            run.step(torch.tensor([1.0, float('nan')]))
        else:
            run.step(torch.ones(2), change=lambda: run.model.weight.grad.fill_(float('inf')))

    def state():
        return str([run.model.state_dict(), run.optimizer.state_dict()])

    run = Run(2, optimizer, **options)
    run.step(torch.ones(2))
    for number in (1, 2):
        before = state()
        bad()
        assert state() == before
        assert f'a {what} is not finite, no weight was changed. Losses: ' in run.logged[-1]
        assert f'a.jpg, b.jpg. This is bad batch {number} of 2 that may be left out' in run.logged[-1]
    before = state()
    run.step(torch.ones(2))
    assert state() != before
    with pytest.raises(InputError, match=f'iteration 11: a {what} is not finite'):
        bad()


def test_the_host_waits_once_an_iteration():
    run = Run()
    run.model.forward = lambda inputs, data_samples, mode: {
        'loss_a': run.model.weight.sum(),
        **{f'loss_{i}': [torch.ones(()), torch.ones(3)] for i in range(6)},
    }
    run.step(torch.ones(2))
    with Waits() as waits:
        run.step(torch.ones(2))
    assert waits.count == 1


def test_a_bad_loss_in_an_iteration_without_a_step_is_seen():
    run = Run()
    with pytest.raises(InputError, match='iteration 7: a loss is not finite'):
        run.step(torch.tensor([1.0, float('nan')]), update=False)


@pytest.mark.skipif(not compat.FUSED_ON_CPU, reason='neither fused optimizers nor a scaler on a CPU')
@pytest.mark.parametrize('fused', [False, True])
def test_steps_that_the_fp16_scaler_skips_are_none_of_its_business(fused):
    run = Run(fused=fused)  # the scaler calls a fused optimizer's step, which leaves it out by itself
    scaler = torch.amp.GradScaler('cpu', init_scale=1e38)  # gradients overflow
    assert torch.equal(run.step(torch.full((2,), 100.0), scaler=scaler), torch.ones(2))
    assert scaler.get_scale() < 1e38
    with pytest.raises(InputError, match='iteration 8: a loss is not finite'):
        run.step(torch.tensor([1.0, float('nan')]), scaler=scaler)


def test_figures_that_are_not_losses_and_predictions_may_be_anything():
    run = Run()
    losses = {'loss_a': run.model.weight.sum(), 'acc': torch.tensor(float('nan'))}
    run.model.forward = lambda inputs, data_samples=None, mode='loss': losses
    run.step(torch.ones(2))
    run = Run()
    run.model.eval()
    run.model(inputs=torch.tensor([float('nan')]), mode='predict')
    run.hook.after_train_iter(run.runner, 0)


def bad_on_the_second(rank: int) -> tuple[list, list, str]:
    """Weights, log and error of a run whose loss is bad on the second process alone; all gradients are finite."""
    run, weights = Run(max_bad_batches=1), []
    for iteration in range(4):
        run.model.constant = float('nan') if rank == 1 and iteration in (1, 3) else 0.0
        try:
            weights.append(run.step(torch.ones(2)).tolist())
        except InputError as error:
            return weights, run.logged, str(error)
    raise AssertionError('the run went on')


def test_a_batch_that_is_bad_on_one_process_is_left_out_on_all_and_stops_all():
    (weights, first, stopped), (same, second, stopped_too) = in_two_processes(bad_on_the_second)
    assert weights == same == [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]
    for of_first, of_second, number in ((first[0], second[0], 8), (stopped, stopped_too, 10)):
        assert of_first.startswith(f'iteration {number}: a loss of another process is not finite')
        assert of_second.startswith(f'iteration {number}: a loss is not finite')
