"""What training needs and MMEngine lacks, registered in :data:`mmsec.registry.HOOKS`."""

from mmsec.engine.hooks.broken_data import BrokenDataHook
from mmsec.engine.hooks.cluster_visualization import ClusterVisualizationHook
from mmsec.engine.hooks.eager_optimizer import EagerOptimizerHook
from mmsec.engine.hooks.finite import FiniteHook
from mmsec.engine.hooks.plain_checkpoint import PlainCheckpointHook
from mmsec.engine.hooks.prediction_pictures import PredictionPicturesHook
from mmsec.engine.hooks.preemption import PreemptionHook
from mmsec.engine.hooks.run_summary import RunSummaryHook
from mmsec.engine.hooks.same_start import SameStartHook
from mmsec.engine.hooks.seed import IterationSeedHook
from mmsec.engine.hooks.whole_checkpoint import WholeCheckpointHook

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
    'SameStartHook',
    'WholeCheckpointHook',
]
