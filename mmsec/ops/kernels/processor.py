"""What the processor is, for kernels whose worth was measured on some and not on others."""

import functools
import platform
from pathlib import Path

import torch


@functools.cache
def vendor() -> str:
    """The maker of the processor as Linux names it, such as 'AuthenticAMD'; its architecture elsewhere."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(':')[1].strip() for line in lines if line.startswith('vendor_id')), platform.machine())


@functools.cache
def has_bfloat16_products() -> bool:
    """Whether oneDNN multiplies bfloat16 here faster than float32."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@functools.cache
def has_amx() -> bool:
    """Whether the processor multiplies tiles (AMX)."""
    return torch.cpu._is_amx_tile_supported()
