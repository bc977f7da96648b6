"""Learned positions of the tokens of a map, at the size of another map."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec import compat


def resize_positions(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map bicubically, as two products, whose gradient is deterministic on every device.

    Args:
        x (Tensor): (..., H, W).
        size (tuple[int, int]): Rows H' and columns W'.

    Returns:
        Tensor: (..., H', W') in the type of ``x``; ``x`` itself if it has that size.
    """
    if compat.is_exporting():  # one operator of ONNX; a graph for any size cannot look whether it is needed
        return F.interpolate(x, size=size, mode='bicubic', align_corners=False)
    if tuple(x.shape[-2:]) == tuple(size) and not torch.jit.is_tracing():  # a trace serves other sizes, too
        return x
    rows, columns = (_bicubic(old, new, x) for old, new in zip(x.shape[-2:], size, strict=True))
    with torch.autocast(x.device.type, enabled=False):
        return rows @ x @ columns.mT


def _bicubic(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old) weights of a bicubic resizing along one side."""
    eye = torch.eye(old, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    weights = F.interpolate(eye[None, :, :, None], size=(new, 1), mode='bicubic', align_corners=False)
    return weights[0, :, :, 0].mT.to(like.dtype)
