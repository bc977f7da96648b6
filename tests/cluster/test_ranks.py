"""What two processes have in common and what they do not."""

import types
from pathlib import Path

import torch
import torch.distributed
from torch import nn

from mmsec.errors import InputError
from mmsec.hooks import FiniteHook


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
    hook = FiniteHook(max_bad_batches=1)
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
