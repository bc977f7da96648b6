"""Random numbers that differ by process and do not depend on when a run was interrupted."""

from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsec.registry import HOOKS


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed torch before each iteration by the run's seed, the process and the iteration.

    MMEngine seeds all processes alike, once: they draw the same drop path masks and the same samples of proposals, and
    a resumed run draws those of its beginning again. With this hook processes draw different numbers, and a resumed run
    draws what it would have drawn without the interruption. Weights are initialised before, alike in all processes.
    The order of the data stays as it is: samplers have generators of their own.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the generators of the CPU and of all devices."""
        seed = np.random.SeedSequence((runner.seed, get_rank(), runner.iter)).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
