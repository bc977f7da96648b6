import sys

import pytest
import torch

from mmsec.engine.precision import set_tf32
from tools import test, train


@pytest.fixture
def _tf32():
    """Puts PyTorch's settings back."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures('_tf32')
@pytest.mark.parametrize('on', [True, False])
def test_tf32_is_for_products_and_convolutions_alike_is_logged_and_leaves_the_cpu_alone(monkeypatch, log, on):
    images, weight = torch.randn(2, 8, 33, 33), torch.randn(16, 8, 3, 3)
    before = images @ images, torch.nn.functional.conv2d(images, weight)
    set_tf32(on)
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is on
    assert (torch.get_float32_matmul_precision() == 'high') == on  # what Inductor asks
    if hasattr(torch.backends.mkldnn, 'matmul'):  # from torch 2.9
        assert torch.backends.mkldnn.matmul.fp32_precision == torch.backends.mkldnn.conv.fp32_precision == 'none'
    after = images @ images, torch.nn.functional.conv2d(images, weight)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert log == []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    set_tf32(on)
    how = 'TF32 (--no-tf32 for full float32)' if on else 'full float32'
    assert log == [f'float32 products and convolutions run in {how}']


@pytest.mark.parametrize(('tool', 'files'), [(train, ['config.py']), (test, ['config.py', 'file.pth'])])
def test_tf32_is_on_unless_the_tools_are_told_otherwise(monkeypatch, tool, files):
    for options, on in (([], True), (['--no-tf32'], False)):
        monkeypatch.setattr(sys, 'argv', ['tool', *files, *options])
        assert tool.parse_args().tf32 == on
