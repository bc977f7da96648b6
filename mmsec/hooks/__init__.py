"""What training needs and MMEngine lacks, registered in :data:`mmsec.registry.HOOKS`."""

from mmsec.hooks.broken_data import BrokenDataHook
from mmsec.hooks.cluster_visualization import ClusterVisualizationHook
from mmsec.hooks.eager_optimizer import EagerOptimizerHook
from mmsec.hooks.finite import FiniteHook
from mmsec.hooks.plain_checkpoint import PlainCheckpointHook
from mmsec.hooks.prediction_pictures import PredictionPicturesHook
from mmsec.hooks.preemption import PreemptionHook
from mmsec.hooks.run_summary import RunSummaryHook
from mmsec.hooks.seed import IterationSeedHook
from mmsec.hooks.whole_checkpoint import WholeCheckpointHook

__all__ = [
    'BrokenDataHook',
    'ClusterVisualizationHook',
    'EagerOptimizerHook',
    'FiniteHook',
    'IterationSeedHook',
    'PlainCheckpointHook',
    'PredictionPicturesHook',
    'PreemptionHook',
    'RunSummaryHook',
    'WholeCheckpointHook',
]
