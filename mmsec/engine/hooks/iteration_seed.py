"""Random numbers of a training iteration that differ by process and do not depend on when a run was interrupted."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsec.registry import HOOKS


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed torch, NumPy and Python before each iteration by the run's seed, the process and the iteration.

    MMEngine seeds all processes alike, once: they draw the same drop path masks, the same samples of proposals and the
    same mixture of images (Mixup, CutMix), and a resumed run draws those of its beginning again. With this hook
    processes draw different numbers in an iteration, and a resumed run draws what it would have drawn without the
    interruption. Weights are initialised before, alike in all processes. Data stay as they are: samplers, and the
    workers that augment images, have generators of their own.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the generators of the CPU and of all devices."""
        seeds = np.random.SeedSequence((runner.seed, get_rank(), runner.iter)).generate_state(3, np.uint64)
        torch.manual_seed(int(seeds[0]))
        np.random.seed(int(seeds[1]) % 2**32)
        random.seed(int(seeds[2]))
