"""How exact the arithmetic of a GPU is."""

import torch
from mmengine.logging import print_log


def set_tf32(on: bool) -> None:
    """Let the float32 products and convolutions of a GPU run in TF32 (10 bits of mantissa), or not, and log which.

    PyTorch's default is TF32 in convolutions alone. ``torch.set_float32_matmul_precision`` is not called, because since
    torch 2.9 it also allows TF32 in the products of a CPU.
    """
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
    if torch.cuda.is_available():
        how = 'TF32 (--no-tf32 for full float32)' if on else 'full float32'
        print_log(f'float32 products and convolutions run in {how}', 'current')
