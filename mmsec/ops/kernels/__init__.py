"""What is faster where. A front is defined in plain torch; kernels stand before it and say when they do not serve."""

from mmsec.ops.kernels.front import Kernel, explain, front, plain_torch

__all__ = ['Kernel', 'explain', 'front', 'plain_torch']
