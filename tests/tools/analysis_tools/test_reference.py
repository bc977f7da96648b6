"""The steps of the public code and attention under a mask, two ways without a common line, compute the same."""

import pytest
import torch

from tools.analysis_tools.reference import gathered, masked


@pytest.mark.parametrize(('num_tokens', 'num_clusters'), [(24, 4), (23, 4), (12, 1)])  # the second does not divide
def test_sorted_clusters_are_those_of_the_mask_with_gradients(num_tokens, num_clusters):
    qkv = [torch.randn(2, num_tokens, 3, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    results = []
    for attend in (gathered, masked):
        out = attend(*qkv, num_clusters)
        results.append([out, *torch.autograd.grad(out.square().sum(), qkv)])
    torch.testing.assert_close(*results)
