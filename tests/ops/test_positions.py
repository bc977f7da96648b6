import pytest
import torch
import torch.nn.functional as F

from mmsec.ops import resize_positions


@pytest.mark.parametrize('size', [(14, 14), (20, 31), (5, 1), (37, 9)])
def test_positions_are_resized_bicubically(size):
    x = torch.randn(1, 6, 14, 10, dtype=torch.float64)
    wanted = F.interpolate(x, size=size, mode='bicubic', align_corners=False)
    torch.testing.assert_close(resize_positions(x, size), wanted, atol=1e-6, rtol=0)


def test_positions_of_the_size_stay_bit_for_bit_and_autocast_changes_nothing():
    x = torch.randn(1, 6, 14, 10)
    assert resize_positions(x, (14, 10)) is x
    with torch.autocast('cpu', torch.bfloat16):
        resized = resize_positions(x, (9, 9))
    assert torch.equal(resized, resize_positions(x, (9, 9)))
