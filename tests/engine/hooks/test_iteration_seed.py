import random
import types

import numpy as np
import pytest
import torch

from mmsec.registry import HOOKS


def draws(seed: int, rank: int, iteration: int) -> tuple:
    """What an iteration draws under the hook."""
    hook = HOOKS.build(dict(type='mmsec.IterationSeedHook'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmsec.engine.hooks.iteration_seed.get_rank', lambda: rank)
        hook.before_train_iter(types.SimpleNamespace(seed=seed, iter=iteration), 0)
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_what_an_iteration_draws_depends_on_seed_process_and_iteration_alone():
    places = [(seed, rank, iteration) for seed in (5, 6) for rank in (0, 1) for iteration in range(3)]
    first = [draws(*place) for place in places]
    assert [draws(*place) for place in reversed(places)] == first[::-1]  # as a resumed run does
    for numbers in zip(*first, strict=True):
        assert len(set(numbers)) == len(places)
