"""What training needs and MMEngine lacks. Each hook is a file here; every file is imported, as every backbone is."""

import importlib
import pkgutil

from mmsec.registry import HOOKS, renamed

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')

renamed(
    HOOKS,
    FiniteHook='NaNGuardHook',
    PredictionPicturesHook='PredictionVisualizationHook',
    SameStartHook='RankConsistencyHook',
    WholeCheckpointHook='AtomicCheckpointHook',
)
