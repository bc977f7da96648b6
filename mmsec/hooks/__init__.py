"""What training needs and MMEngine lacks, registered in :data:`mmsec.registry.HOOKS`."""

from mmsec.hooks.plain_checkpoint import PlainCheckpointHook
from mmsec.hooks.prediction_pictures import PredictionPicturesHook
from mmsec.hooks.run_summary import RunSummaryHook

__all__ = ['PlainCheckpointHook', 'PredictionPicturesHook', 'RunSummaryHook']
