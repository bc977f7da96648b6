"""What training needs and MMEngine lacks, registered in :data:`mmsec.registry.HOOKS`."""

from mmsec.hooks.plain_checkpoint import PlainCheckpointHook

__all__ = ['PlainCheckpointHook']
