"""The machine that figures come from."""

from pathlib import Path

import torch


def machine() -> dict[str, str | int | None]:
    """What stands beside measured figures: processor, threads of torch, GPU (None without one), version of torch."""
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    cpu = next(line.split(':')[1].strip() for line in lines if 'model name' in line)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {'cpu': cpu, 'threads': torch.get_num_threads(), 'gpu': gpu, 'torch': torch.__version__}
