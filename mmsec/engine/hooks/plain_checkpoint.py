"""Checkpoints that hold tensors and plain values alone."""

import logging

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import Runner

from mmsec.models.checkpoints.plain import plain, to_write
from mmsec.models.checkpoints.reading import forget_checkpoints
from mmsec.registry import HOOKS


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Keep the run's state in checkpoints as plain values.

    MMEngine pickles its own ``HistoryBuffer`` objects, NumPy numbers, parts of configs and functions of schedulers,
    which ``torch.load(weights_only=True)``, the default since torch 2.6, refuses. With this hook a checkpoint can be
    read without trusting whoever made it, and stock mmengine 0.10.7 can resume on a recent torch. What has no plain
    value is left out, and named in the log once.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._named: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Free the checkpoints that the run has started from."""
        forget_checkpoints()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace what is in the checkpoint by copies of Python's own types."""
        left_out: list[str] = []
        copied = plain(checkpoint, to_write(left_out))
        checkpoint.clear()
        checkpoint.update(copied)
        new = sorted({*left_out} - self._named)
        self._named |= {*new}
        if new:
            print_log(f'checkpoints leave out what is no plain value: {", ".join(new)}', 'current', logging.WARNING)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make history buffers of the lists again, before the run reads them."""
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for name, history in scalars.items():
            if isinstance(history, dict):
                scalars[name] = HistoryBuffer(history['values'], history['counts'])
