"""How similar tokens are to a vector of their image and head."""

import torch
from torch import Tensor


def in_float(x: Tensor) -> Tensor:
    """Tokens without gradient, in float32, or in float64 where they are float64."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def cosine(x: Tensor, center: Tensor) -> Tensor:
    """Cosine of the angle between tokens (..., d) and vectors (..., d), in [-1, 1]; 0 for an all-zero token."""
    norm = torch.linalg.vector_norm(x, dim=-1) * torch.linalg.vector_norm(center, dim=-1)
    return dot(x, center) / norm.clamp_min(torch.finfo(x.dtype).tiny)


def dot(x: Tensor, center: Tensor) -> Tensor:
    """Dot product of tokens (..., d) and vectors (..., d)."""
    return (x * center).sum(dim=-1)


def euclidean(x: Tensor, center: Tensor) -> Tensor:
    """Distance between tokens (..., d) and vectors (..., d), negated: high means close."""
    return -torch.linalg.vector_norm(x - center, dim=-1)
