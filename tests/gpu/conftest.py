"""Where the tests of this folder run."""

import os
from collections.abc import Iterator

import pytest
import torch

from mmsec.ops import use_kernels

DEVICE = os.environ.get('MMSEC_TEST_DEVICE', 'cuda')  # 'cpu' runs what a CPU can run, to try the tests themselves


def skip_without_gpu() -> None:
    """Skip a whole file with one line; it calls this behind its imports."""
    if DEVICE == 'cuda' and not torch.cuda.is_available():
        pytest.skip('no CUDA device', allow_module_level=True)


@pytest.fixture
def device() -> str:
    """Where the test runs."""
    return DEVICE


@pytest.fixture
def cuda() -> str:
    """Where a test runs that makes no sense elsewhere."""
    if DEVICE != 'cuda':
        pytest.skip('for CUDA alone')
    return DEVICE


@pytest.fixture(params=['measured', 'on'])
def kernels(request) -> Iterator[str]:
    """Those kernels that the table names, and all of them."""
    if request.param == 'on' and DEVICE != 'cuda':
        pytest.skip('Triton kernels are for CUDA alone; the interpreter has tests of its own')
    with use_kernels(request.param):
        yield request.param
