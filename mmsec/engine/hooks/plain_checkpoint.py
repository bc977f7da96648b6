"""Checkpoints that hold tensors and plain values alone."""

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from mmsec.registry import HOOKS


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Keep the run's state in checkpoints as plain values.

    MMEngine pickles its own ``HistoryBuffer`` objects and NumPy numbers, which ``torch.load(weights_only=True)``, the
    default since torch 2.6, refuses. With this hook a checkpoint can be read without trusting whoever made it, and
    stock mmengine 0.10.7 can resume on a recent torch.
    """

    priority = 'LOWEST'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace each history buffer in the checkpoint by its lists, and NumPy numbers by Python's."""
        info = checkpoint['message_hub']['runtime_info']
        for name, value in info.items():
            if isinstance(value, np.generic):
                info[name] = value.item()
        scalars = checkpoint['message_hub']['log_scalars']
        for name, buffer in scalars.items():
            values, counts = buffer.data
            scalars[name] = {'values': values.tolist(), 'counts': counts.tolist()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make history buffers of the lists again, before the run reads them."""
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for name, history in scalars.items():
            if isinstance(history, dict):
                scalars[name] = HistoryBuffer(history['values'], history['counts'])
