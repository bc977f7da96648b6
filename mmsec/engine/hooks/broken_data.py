"""How much broken data a run puts up with."""

import math
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsec.datasets.skip_broken import SkipBroken
from mmsec.datasets.wrappers import inner_datasets
from mmsec.errors import InputError
from mmsec.registry import HOOKS

# How often the counts of all processes are added up, for which they wait for each other.
_CHECKS_AN_EPOCH = 20
_LONGEST_INTERVAL = 50  # iterations


@HOOKS.register_module()
class BrokenDataHook(Hook):
    """Count samples that :class:`mmsec.datasets.SkipBroken` left out.

    They are counted over each epoch's worth of images and over all processes, twenty times an epoch or more. The look
    at the data before training (docs/distributed_training.md) puts up with a tenth, or with ``max_share`` if that is
    more.

    Args:
        max_share (float): The run stops when more than this share of the samples of an epoch is broken. Default: 0.01.
    """

    def __init__(self, max_share: float = 0.01) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f'max_share must be between 0 and 1, got {max_share}')
        self.max_share = max_share
        self._loaders: list[SkipBroken] = []
        self._interval = 1
        self._broken_before = self._seen = self._seen_before = 0

    def before_train(self, runner: Runner) -> None:
        """Find the transforms that count."""
        loader = runner.train_dataloader
        self._loaders = []
        self._broken_before, self._seen, self._seen_before = self._total(runner)[0], 0, 0
        batch_size = loader.batch_size or loader.batch_sampler.batch_size  # the first is None under a batch sampler
        iterations = math.ceil(len(loader.dataset) / (batch_size * get_world_size()))
        self._interval = min(max(iterations // _CHECKS_AN_EPOCH, 1), _LONGEST_INTERVAL)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Stop all processes when more than ``max_share`` of an epoch was left out."""
        self._seen += len(data_batch['data_samples'])
        if not self.every_n_train_iters(runner, self._interval):
            return
        broken, seen = self._total(runner)
        broken -= self._broken_before
        epoch = len(runner.train_dataloader.dataset)
        if broken > self.max_share * epoch:
            raise InputError(
                f'{broken} samples were broken and left out, more than {self.max_share:.1%} of the {epoch} of an '
                'epoch. The log names each: look for "sample left out". To put up with more, set max_share of '
                'mmsec.BrokenDataHook'
            )
        last = seen - self._seen_before
        if last >= epoch:
            if broken:
                runner.logger.warning(f'{broken} of the last {last} samples were broken and left out')
            self._broken_before, self._seen_before = self._broken_before + broken, seen

    def _total(self, runner: Runner) -> tuple[int, int]:
        """Samples that were left out, in the workers too, and samples that were trained on, of all processes."""
        datasets = inner_datasets(runner.train_dataloader.dataset)
        transforms = [t for each in datasets for t in getattr(getattr(each, 'pipeline', None), 'transforms', [])]
        # A run can switch to another pipeline, whose transforms count from 0, so those of the first are kept.
        self._loaders += [t for t in transforms if isinstance(t, SkipBroken) and t not in self._loaders]
        total = torch.tensor([sum(loader.count.value for loader in self._loaders), self._seen])
        all_reduce(total)
        broken, seen = total.tolist()
        return broken, seen
