import types

import pytest
import torch
from torch import nn

from mmsec.errors import InputError
from mmsec.hooks import FiniteHook


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, inputs, data_samples=None, mode='loss'):
        if mode != 'loss':
            return [inputs]
        return {'loss_a': (self.weight * inputs).sum(), 'loss_b': [torch.zeros(()), torch.ones(())]}


@pytest.fixture
def run():
    """One iteration on the given inputs; returns the weight after it."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    runner = types.SimpleNamespace(model=model, optim_wrapper=types.SimpleNamespace(optimizer=optimizer), iter=6)
    FiniteHook().before_train(runner)
    samples = [types.SimpleNamespace(img_path='a.jpg'), types.SimpleNamespace(img_path='b.jpg')]

    def step(inputs, change=lambda: None):
        optimizer.zero_grad()
        losses = model(inputs=inputs, data_samples=samples, mode='loss')
        losses['loss_a'].backward()
        change()
        optimizer.step()
        return model.weight.detach().clone()

    step.model, step.optimizer = model, optimizer
    return step


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_bad_loss_stops_before_a_weight_changes(run, bad):
    assert torch.equal(run(torch.ones(2)), torch.full((2,), 0.5))
    with pytest.raises(InputError) as caught:
        run(torch.tensor([1.0, bad]))
    assert 'iteration 7: a loss is not finite' in str(caught.value)
    assert f'loss_a {bad:g}, loss_b 1' in str(caught.value)
    assert 'a.jpg, b.jpg' in str(caught.value)
    assert torch.equal(run.model.weight, torch.full((2,), 0.5))


def test_a_bad_gradient_stops_before_a_weight_changes(run):
    with pytest.raises(InputError, match=r'iteration 7: a gradient is not finite.*a\.jpg'):
        run(torch.ones(2), change=lambda: run.model.weight.grad.fill_(float('nan')))
    assert torch.equal(run.model.weight, torch.ones(2))


@pytest.mark.parametrize('fused', [False, True])
def test_steps_that_the_fp16_scaler_skips_are_none_of_its_business(run, fused):
    if fused:  # the scaler calls such an optimizer's step, which leaves it out by itself
        run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.5, fused=True)
        runner = types.SimpleNamespace(
            model=nn.Identity(), optim_wrapper=types.SimpleNamespace(optimizer=run.optimizer)
        )
        FiniteHook().before_train(runner)
    scaler = torch.amp.GradScaler('cpu', init_scale=1e38)  # gradients overflow
    losses = run.model(inputs=torch.full((2,), 100.0), data_samples=[], mode='loss')
    scaler.scale(losses['loss_a']).backward()
    assert not run.model.weight.grad.isfinite().all()
    scaler.step(run.optimizer)
    scaler.update()
    assert torch.equal(run.model.weight, torch.ones(2))
    assert scaler.get_scale() < 1e38


def test_figures_that_are_not_losses_may_be_anything(run):
    hook_losses = {'loss_a': torch.ones(()), 'acc': torch.tensor(float('nan'))}
    run.model.forward = lambda inputs, data_samples=None, mode='loss': hook_losses
    assert run.model(inputs=None, data_samples=[], mode='loss') is hook_losses


def test_predictions_are_not_looked_at(run):
    run.model.eval()
    run.model(inputs=torch.tensor([float('nan')]), mode='predict')
