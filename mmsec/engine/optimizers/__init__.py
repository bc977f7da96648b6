"""What steps the weights, registered in :mod:`mmsec.registry`."""

from mmsec.engine.optimizers.bfloat16 import BFloat16OptimWrapper
from mmsec.engine.optimizers.constructor import MergedOptimWrapperConstructor

__all__ = ['BFloat16OptimWrapper', 'MergedOptimWrapperConstructor']
