import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.model import ImgDataPreprocessor

from mmsec.visualization.drawing import as_seen


def test_as_seen_is_rgb_and_the_normalised_input():
    preprocessor = DetDataPreprocessor(mean=[10, 20, 30], std=[2, 2, 2], bgr_to_rgb=True, pad_size_divisor=32)
    bgr = torch.arange(3, dtype=torch.uint8).mul(100).view(3, 1, 1).expand(3, 8, 40)
    image, batch = as_seen(preprocessor, {'inputs': bgr, 'data_samples': DetDataSample()})
    assert image.shape == (8, 40, 3)
    assert image[0, 0].tolist() == [200, 100, 0]
    assert batch.shape == (1, 3, 32, 64)
    assert batch[0, :, 0, 0].tolist() == [95, 40, -15]


@pytest.mark.parametrize(('channels', 'colour'), [(1, [10, 10, 10]), (2, [10, 10, 10]), (4, [30, 20, 10])])
def test_as_seen_is_a_picture_whatever_the_channels(channels, colour):
    pixels = torch.arange(10, 10 + 10 * channels, 10, dtype=torch.uint8)[:, None, None].expand(channels, 8, 9)
    image, batch = as_seen(ImgDataPreprocessor(), {'inputs': pixels, 'data_samples': DetDataSample()})
    assert image.shape == (8, 9, 3)
    assert image[0, 0].tolist() == colour
    assert batch.shape == (1, channels, 8, 9)


def test_as_seen_draws_values_of_any_range():
    pixels = torch.tensor([0, 500, 1000], dtype=torch.int32).view(1, 1, 3)
    image, _ = as_seen(ImgDataPreprocessor(), {'inputs': pixels, 'data_samples': DetDataSample()})
    assert image.dtype == 'uint8'
    assert image[0, :, 0].tolist() == [0, 127, 255]
