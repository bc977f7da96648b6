"""Two-dimensional rotary position embedding."""

import torch
from torch import Tensor

from mmsec.ops.kernels import backwards, fused_op


def rotary_table(height: int, width: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Cosines and sines of the rotation angles of every token.

    The first half of the channel pairs turns with the row index, the second half with the column index, both counted
    from 0 and never rescaled. Frequencies fall from 1 to 1/10000, both ends included.

    Args:
        height (int): Rows H of the map.
        width (int): Columns W of the map.
        head_dim (int): Channels d of a head, a multiple of 4.
        dtype (torch.dtype): Type of the tokens to be rotated; the table is float64 for float64, else float32.
        device (torch.device): Where the result lives.

    Returns:
        Tensor: (H*W, d/2, 2); cosine and sine of one angle per channel pair.

    Raises:
        ValueError: If ``head_dim`` is not a multiple of 4.

    Source: Semantic Equitable Clustering, public code (qhfan/SecViT), class RoPE.
    """
    if head_dim % 4:
        raise ValueError(f'head_dim must be a multiple of 4 for 2-D rotary embedding, got {head_dim}')
    exponents = torch.linspace(0, 1, head_dim // 4, dtype=torch.float32, device=device)
    # The published frequencies are float32 numbers; a wider dtype keeps them as they are.
    frequencies = (1.0 / 10000**exponents).to(torch.promote_types(dtype, torch.float32))  # (d/4,)
    # Of each row and column once, and not of each token.
    row, column = (_turns(size, frequencies) for size in (height, width))  # (H, d/4, 2), (W, d/4, 2)
    token = torch.arange(height * width, device=device)
    return torch.cat([row[token // width], column[token % width]], dim=1)


def _turns(size: int, frequencies: Tensor) -> Tensor:
    """Cosines and sines of the angles at positions 0 to ``size`` - 1, (size, d/4, 2)."""
    angles = torch.arange(size, device=frequencies.device)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


@fused_op(backwards.ROTATION_AS_COMPLEX)
def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """Rotate interleaved channel pairs: (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin).

    Args:
        x (Tensor): (B, N, h, d) queries or keys.
        table (Tensor): (N, d/2, 2) from :func:`rotary_table`. Half precision is rotated in float32 and rounded once.

    Returns:
        Tensor: (B, N, h, d), contiguous, same dtype as ``x``.
    """
    pairs = x.to(table.dtype).unflatten(-1, (-1, 2))  # (B, N, h, d/2, 2)
    (x0, x1), (cos, sin) = pairs.unbind(-1), table[:, None].unbind(-1)
    return torch.stack([x0 * cos - x1 * sin, x1 * cos + x0 * sin], dim=-1).flatten(-2).to(x.dtype)
