"""What benchmarks compare with computes what is right."""

import pytest
import torch

from mmsec.models import SecViT
from tests import oracle
from tests.conftest import SMALL_ARCH
from tools.analysis_tools.published_secvit import published_forward


@pytest.mark.parametrize('options', [{}, dict(cluster_size=20), dict(out_indices=(2, 0), out_norm=False)])
@pytest.mark.parametrize('size', [(64, 96), (91, 70)])  # the second does not divide by the cluster counts
def test_the_published_computation_equals_the_oracle_with_gradients(options, size):
    backbone = SecViT(SMALL_ARCH, **options).double().eval()
    with torch.no_grad():
        for parameter in backbone.parameters():  # large enough for each of them to matter
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    results = []
    for maps in (published_forward(backbone, images), oracle.forward(backbone, images)):
        results.append([*maps, *torch.autograd.grad(sum(m.square().sum() for m in maps), list(backbone.parameters()))])
    for ours, wanted in zip(*results, strict=True):
        assert (ours - wanted).norm() <= 1e-9 * wanted.norm()
