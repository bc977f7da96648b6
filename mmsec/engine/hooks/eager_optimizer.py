"""The optimizer stays out of torch.compile."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsec.registry import HOOKS


@HOOKS.register_module()
class EagerOptimizerHook(Hook):
    """Under ``compile=True`` compile the model and leave the optimizer's step as it is.

    MMEngine compiles the whole ``train_step``, and torch 2.13 fails on the optimizer in it: MMEngine makes its
    parameter groups ``ConfigDict`` objects, which TorchDynamo cannot write to. Without ``compile`` in the config the
    hook does nothing.
    """

    def before_train(self, runner: Runner) -> None:
        """Shield ``optim_wrapper.update_params`` from the compiler."""
        if runner.cfg.get('compile'):
            runner.optim_wrapper.update_params = torch.compiler.disable(runner.optim_wrapper.update_params)
