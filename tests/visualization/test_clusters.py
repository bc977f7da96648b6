import numpy as np
import pytest
import torch
from matplotlib import colormaps

from mmsec.models import SecViT
from mmsec.models.inspection import token_clusters
from mmsec.visualization.clusters import PALETTE, ClusterMap, cluster_maps, cluster_sheet, mean_of_heads
from tests.conftest import SMALL_ARCH


def one_map(height, width, num_clusters, title='stage 1, head 1'):
    scores = torch.linspace(-1, 1, height * width).view(height, width)
    ids = (torch.arange(height * width) * num_clusters // (height * width)).view(height, width)
    return ClusterMap(title, 4, ids, scores)


@pytest.mark.parametrize(('height', 'width'), [(40, 60), (1, 1), (300, 20), (37, 51)])
@pytest.mark.parametrize('num_clusters', [1, 2, 32])
def test_a_sheet_is_a_picture_for_any_image(height, width, num_clusters):
    size = -(-height // 4), -(-width // 4)
    maps = [one_map(*size, min(num_clusters, size[0] * size[1]))] * 2
    sheet = cluster_sheet(np.full((height, width, 3), 200, np.uint8), maps)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1:] == (1200, 3)


def test_clusters_have_the_colour_of_their_id_at_their_place():
    """Two clusters, the upper half of a black image and the lower, in the panel's middle column."""
    sheet = cluster_sheet(np.zeros((400, 400, 3), np.uint8), [one_map(100, 100, 2)]).astype(int)
    for cluster, row in ((0, 0.35), (1, 0.75)):
        wanted = (
            0.7 * 255 * np.array(colormaps[PALETTE](float(cluster))[:3]) + 0.3 * 64
        )  # over black, drawn as dark grey
        assert np.abs(sheet[int(row * len(sheet)), 520] - wanted).max() <= 2


def test_mean_of_heads_cuts_the_mean_score_into_equal_clusters():
    scores = torch.randn(3, 5, 7)
    ids, mean = mean_of_heads(scores, 4)
    assert torch.equal(mean, scores.mean(0))
    assert ids.flatten()[mean.flatten().argsort()].tolist() == [0] * 9 + [1] * 9 + [2] * 9 + [3] * 8


def test_no_map_is_an_error():
    with pytest.raises(ValueError, match='at least one map'):
        cluster_sheet(np.zeros((4, 4, 3), np.uint8), [])


def test_maps_of_a_backbone_are_titled_from_one():
    backbone, image = SecViT(SMALL_ARCH).eval(), torch.randn(1, 3, 64, 96)
    maps = cluster_maps(backbone, image, [1, 2], heads='all')
    assert [each.title for each in maps] == [f'stage {s}, head {h}' for s in (2, 3) for h in range(1, 2 * s - 1)]
    assert [each.stride for each in maps] == [8, 8, 16, 16, 16, 16]
    ids, scores, name = token_clusters(backbone, image, [2])[0]
    assert torch.equal(maps[3].ids, ids[0, 1])
    assert torch.equal(maps[3].scores, scores[0, 1])
    assert maps[3].score_name == name == 'cosine with the mean key'
    (one,) = cluster_maps(backbone, image, [2], block=0, heads=3)
    assert one.title == 'stage 3, block 1, head 4'
    (mean,) = cluster_maps(backbone, image, [2])
    assert torch.equal(mean.scores, scores[0].mean(0))
    with pytest.raises(ValueError, match=r"heads must be 'all', 'mean' or in \[0, 1\], got 2"):
        cluster_maps(backbone, image, [1], heads=2)
