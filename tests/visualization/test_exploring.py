import numpy as np
import pytest
import torch

from mmsec.visualization.clusters import ClusterMap
from mmsec.visualization.exploring import attended_picture, cluster_picture, picture_size, token_at

IDS = torch.arange(24).view(4, 6) // 12  # the upper and the lower half


@pytest.mark.parametrize(
    ('place', 'token'), [((0, 0), 0), ((1, 1), 23), ((0.5, 0.5), 15), ((0.99, 0), 5), ((0, 0.99), 18), ((-1, 9), 18)]
)
def test_a_place_is_the_token_under_it(place, token):
    assert token_at(ClusterMap('', 8, IDS), np.zeros((32, 48, 3), np.uint8), place) == token


def test_the_last_tokens_may_reach_beyond_the_image():
    assert token_at(ClusterMap('', 8, IDS), np.zeros((25, 41, 3), np.uint8), (0.99, 0.99)) == 23
    assert token_at(ClusterMap('', 8, IDS), np.zeros((16, 24, 3), np.uint8), (0.99, 0.99)) == 8


@pytest.mark.parametrize(('height', 'width'), [(32, 48), (1, 1), (3, 900), (900, 3)])
def test_pictures_are_the_image_from_edge_to_edge(height, width):
    image = np.full((height, width, 3), 128, np.uint8)
    each = ClusterMap('', max(height, width), torch.zeros(1, 1, dtype=torch.int64))
    for picture in (cluster_picture(image, each, 0), attended_picture(image, each, 0)):
        assert picture.shape[1::-1] == picture_size(image)
        assert max(picture.shape) == 768


def test_what_is_attended_is_bright_by_its_share_and_all_else_grey():
    image, each = np.zeros((32, 48, 3), np.uint8), ClusterMap('', 8, IDS)
    shares = torch.zeros(4, 6)
    shares[0, 1], shares[1, 4] = 0.9, 0.1
    picture = attended_picture(image, each, 1, shares).astype(int)
    most, less, none, outside = (picture[row * 128 + 64, column * 128 + 64] for row, column in
                                 ((0, 1), (1, 4), (1, 1), (3, 3)))  # fmt: skip
    assert most.sum() > less.sum() > none.sum()
    assert np.ptp(none) > 50  # of the cluster, though nothing is on it
    assert np.ptp(outside) == 0
    together = attended_picture(image, each, 1)
    assert (together[64, 64 + 128 * 3] == together[64 + 128, 64]).all()
