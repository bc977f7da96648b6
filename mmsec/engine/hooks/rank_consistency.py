"""All processes of a run start from one state."""

import torch
from mmengine.dist import all_gather
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsec.engine.processes import stop_together
from mmsec.errors import InputError
from mmsec.registry import HOOKS

_SHOWN_PROCESSES = 8


@HOOKS.register_module()
class RankConsistencyHook(Hook):
    """Stop a run whose processes start from different states.

    Each process reads the checkpoint itself, and one whose machine still sees an older file by that name would train
    other weights without a word.
    """

    priority = 'HIGHEST'

    def before_train(self, runner: Runner) -> None:
        """Compare epoch, iteration and the sum of the bytes of all weights with the first process's."""
        weights = [value.flatten().view(torch.uint8).sum() for value in runner.model.state_dict().values()]
        own = torch.tensor([runner.epoch, runner.iter, int(torch.stack(weights).sum())])
        first, *others = torch.stack(all_gather(own)).tolist()
        different = [(rank, other) for rank, other in enumerate(others, start=1) if other != first]
        if different:
            shown = '; '.join(
                f'process {rank}: epoch {epoch}, iteration {iteration}, sum of weights {total}'
                for rank, (epoch, iteration, total) in [(0, first), *different[:_SHOWN_PROCESSES]]
            )
            error = InputError(
                f'{len(different)} of {len(others) + 1} processes do not start from the state of the first ({shown}). '
                f"Do all machines see the same file as '{runner._load_from}'? Some network mounts show an older one "
                'for a while'
            )
            stop_together(error)
