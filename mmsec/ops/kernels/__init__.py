"""What is faster where. A fused op is plain torch; kernels stand before it and say when they do not serve."""

from mmsec.ops.kernels.dispatch import Kernel, KernelError, explain, fused_op, plain_torch
from mmsec.ops.kernels.table import use_kernels

__all__ = ['Kernel', 'KernelError', 'explain', 'fused_op', 'plain_torch', 'use_kernels']
