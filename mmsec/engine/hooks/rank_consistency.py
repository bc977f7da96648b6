"""All processes of a run start from one state."""

import hashlib
from collections.abc import Sized

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmsec.engine.processes import check_same
from mmsec.registry import HOOKS


@HOOKS.register_module()
class RankConsistencyHook(Hook):
    """Stop a run whose processes start from different states.

    Each process reads checkpoint and data itself, and one whose machine still sees an older file by that name would
    train other weights without a word, or wait without end for batches that others do not have.
    """

    priority = 'HIGHEST'

    def before_train(self, runner: Runner) -> None:
        """Compare epoch, iteration, seed, lengths of the data and a hash of the weights with the first process's."""
        loaders = {'training': runner.train_dataloader}
        if runner.val_loop is not None:
            loaders['validation'] = runner.val_dataloader
        lengths = {
            f'number of {name} samples': len(loader.dataset)
            for name, loader in loaders.items()
            if isinstance(loader.dataset, Sized)
        }
        own_seed = get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0
        facts = {'epoch': runner.epoch, 'iteration': runner.iter, **lengths, 'seed': runner.seed - own_seed}
        check_same(
            facts | {'hash of weights': weights_hash(runner.model)},
            f"Do all machines see the same data and the same file as '{runner._load_from}'? Some network mounts show "
            'an older one for a while',
        )


def weights_hash(model: nn.Module) -> str:
    """The beginning of the SHA-256 of all weights and buffers, and of their names."""
    sha = hashlib.sha256()
    for name, value in model.state_dict().items():
        sha.update(name.encode())
        if isinstance(value, Tensor):
            sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]
