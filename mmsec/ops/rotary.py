"""Two-dimensional rotary position embedding: SecViT's by rows and columns, DINOv3's by coordinates."""

import math

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


def token_centers(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(H*W, 2): row and column of each token's centre; each side of the map goes from -1 to 1, whatever its length."""
    rows, columns = (2 * ((torch.arange(n, dtype=dtype, device=device) + 0.5) / n) - 1 for n in (height, width))
    token = torch.arange(height * width, device=device)
    return torch.stack([rows[token // width], columns[token % width]], dim=-1)


def rotary_periods(head_dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(d/4,): the lengths after which an angle of :func:`coordinate_table` comes again; from 1 to almost 100.

    ``dtype`` is that of the tokens to be rotated; the periods are float64 for float64, else float32.

    Source: DINOv3 (arXiv 2508.10104), public code (facebookresearch/dinov3), class RopePositionEmbedding.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    return 100.0 ** (2 * torch.arange(head_dim // 4, dtype=dtype, device=device) / (head_dim // 2))


def coordinate_table(coordinates: Tensor, periods: Tensor) -> Tensor:
    """Cosines and sines of the rotation angles of tokens that may be anywhere.

    The first half of the channel pairs turns with the row, the second half with the column.

    Args:
        coordinates (Tensor): (..., N, 2), as of :func:`token_centers`.
        periods (Tensor): (d/4,) from :func:`rotary_periods`.

    Returns:
        Tensor: (..., N, d/2, 2); cosine and sine of one angle per channel pair.

    Source: As :func:`rotary_periods`. There a channel pairs with the one half a head away, and here with the next one.
    """
    angles = (2 * math.pi * coordinates[..., None] / periods).flatten(-2)  # (..., N, d/2)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


@fused_op(backwards.ROTATION_AS_COMPLEX)
def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """Rotate interleaved channel pairs: (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin).

    Args:
        x (Tensor): (B, N, h, d) queries or keys.
        table (Tensor): (N, d/2, 2) from :func:`rotary_table`, or of each image, (B, N, d/2, 2), from
            :func:`coordinate_table`. Half precision is rotated in float32 and rounded once.

    Returns:
        Tensor: (B, N, h, d), contiguous, same dtype as ``x``.
    """
    pairs = x.to(table.dtype).unflatten(-1, (-1, 2))  # (B, N, h, d/2, 2)
    (x0, x1), (cos, sin) = pairs.unbind(-1), table.unsqueeze(-3).unbind(-1)
    return torch.stack([x0 * cos - x1 * sin, x1 * cos + x0 * sin], dim=-1).flatten(-2).to(x.dtype)
