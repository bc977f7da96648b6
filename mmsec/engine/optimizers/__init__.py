"""What steps the weights, registered in :mod:`mmsec.registry`."""

from mmsec.engine.optimizers.bfloat16 import BFloat16OptimWrapper
from mmsec.engine.optimizers.constructor import MergedOptimWrapperConstructor
from mmsec.engine.optimizers.layer_decay import LayerDecayOptimizerConstructor

__all__ = ['BFloat16OptimWrapper', 'LayerDecayOptimizerConstructor', 'MergedOptimWrapperConstructor']
