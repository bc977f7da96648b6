"""Numbers that look random but depend on nothing outside: the same on every device, in every process and graph.

A :class:`torch.Generator` would do on one device; torch.compile cannot take one into a graph.
"""

import torch
from torch import Tensor


def hashed(x: Tensor) -> Tensor:
    """Scramble integers of 32 bits; different ones stay different.

    int64 in [0, 2^32) -> the same. No product exceeds 59 bits, so int64 never overflows.
    """
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def hashed_rows(block: int, heads: int, length: int, device: torch.device) -> Tensor:
    """(h, length) int64 in [0, 2^32), a row of scrambled integers for each head of a block, different within a row."""
    head = torch.arange(heads, device=device)[:, None]
    return hashed(hashed(head + (block + 1) * 65536) ^ torch.arange(length, device=device))
