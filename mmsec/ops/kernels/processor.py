"""What the processor is, for kernels whose worth was measured on some and not on others."""

import platform
from pathlib import Path

import torch

from mmsec import compat


def _vendor() -> str:
    """The maker of the processor as Linux names it; its architecture elsewhere."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(':')[1].strip() for line in lines if line.startswith('vendor_id')), platform.machine())


# Constants, because torch.compile traces the kernels' conditions and takes no call into the system.
VENDOR = _vendor()  # such as 'AuthenticAMD'
BFLOAT16_PRODUCTS = torch.ops.mkldnn._is_mkldnn_bf16_supported()
AMX = compat.has_amx()
