import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample

from mmsec.visualization.drawing import as_seen


def test_as_seen_is_rgb_and_the_normalised_input():
    preprocessor = DetDataPreprocessor(mean=[10, 20, 30], std=[2, 2, 2], bgr_to_rgb=True, pad_size_divisor=32)
    bgr = torch.arange(3, dtype=torch.uint8).mul(100).view(3, 1, 1).expand(3, 8, 40)
    image, batch = as_seen(preprocessor, {'inputs': bgr, 'data_samples': DetDataSample()})
    assert image.shape == (8, 40, 3)
    assert image[0, 0].tolist() == [200, 100, 0]
    assert batch.shape == (1, 3, 32, 64)
    assert batch[0, :, 0, 0].tolist() == [95, 40, -15]
