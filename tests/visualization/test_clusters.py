import numpy as np
import pytest
import torch
from matplotlib import colormaps

from mmsec.models import ClusTR, SecViT
from mmsec.models.inspection import token_clusters
from mmsec.visualization.clusters import PALETTE, ClusterMap, cluster_maps, cluster_sheet, mean_of_heads
from mmsec.visualization.merging import merging_sheet
from tests.conftest import SMALL_ARCH, SMALL_CLUSTR


def one_map(height, width, num_clusters):
    scores = torch.linspace(-1, 1, height * width).view(height, width)
    ids = (torch.arange(height * width) * num_clusters // (height * width)).view(height, width)
    return ClusterMap('stage 1, head 1', 4, ids, scores)


@pytest.mark.parametrize(('height', 'width'), [(40, 60), (1, 1), (300, 20), (37, 51)])
@pytest.mark.parametrize('num_clusters', [1, 2, 32])
def test_a_sheet_is_a_picture_for_any_image(height, width, num_clusters):
    size = -(-height // 4), -(-width // 4)
    maps = [one_map(*size, min(num_clusters, size[0] * size[1]))] * 2
    sheet = cluster_sheet(np.full((height, width, 3), 200, np.uint8), maps)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1:] == (1200, 3)


def test_clusters_have_the_colour_of_their_id():
    """Two clusters, the upper half of a black image and the lower, in the panel's middle column."""
    sheet = cluster_sheet(np.zeros((400, 400, 3), np.uint8), [one_map(100, 100, 2)]).astype(int)
    for cluster, row in ((0, 0.35), (1, 0.75)):
        wanted = 0.7 * 255 * np.array(colormaps[PALETTE](float(cluster))[:3]) + 0.3 * 64  # black is drawn as dark grey
        assert np.abs(sheet[int(row * len(sheet)), 520] - wanted).max() <= 2
    scores = sheet[int(0.35 * len(sheet)), 900], sheet[int(0.75 * len(sheet)), 900]
    assert np.abs(np.subtract(*scores)).max() > 80  # they rise from above to below


def test_mean_of_heads_cuts_the_mean_score_into_equal_clusters():
    scores = torch.randn(3, 5, 7)
    ids, mean = mean_of_heads(scores, 4)
    assert torch.equal(mean, scores.mean(0))
    assert ids.flatten()[mean.flatten().argsort()].tolist() == [0] * 9 + [1] * 9 + [2] * 9 + [3] * 8


@pytest.mark.parametrize('sheet', [cluster_sheet, merging_sheet])
def test_no_map_is_an_error(sheet):
    with pytest.raises(ValueError, match='at least one map'):
        sheet(np.zeros((4, 4, 3), np.uint8), [])


@pytest.mark.parametrize(('sheet', 'columns'), [(cluster_sheet, slice(640, 1160)), (merging_sheet, slice(410, 790))])
def test_tokens_of_one_cluster_have_one_colour_and_single_ones_have_none(sheet, columns):
    ids = torch.tensor([[0, 0, 1], [2, 3, 1]])
    drawn = sheet(np.full((20, 30, 3), 128, np.uint8), [ClusterMap('block 1', 10, ids)])
    tokens = drawn[90:-30, columns].reshape(-1, 3).astype(int)
    grey = np.abs(tokens - tokens.mean(1, keepdims=True)).max(1) < 3
    colours, counts = np.unique(tokens[~grey] // 8, axis=0, return_counts=True)
    assert (counts > 2000).sum() == 2, colours  # two clusters of two tokens
    assert (np.abs(tokens - 128).max(1) < 3).sum() > 4000  # the image shows through where a token is alone
    halves = torch.tensor([[0, 0, 1, 1]] * 4)
    for ids in (halves, halves.T):
        drawn = sheet(np.full((40, 40, 3), 99, np.uint8), [ClusterMap('block 1', 10, ids)])
        assert (drawn[90:-50, columns].min(-1)[:, 20:-20] > 170).sum() > 50  # the line between the two


def test_scales_are_drawn_and_named():
    backbone, image = ClusTR(SMALL_CLUSTR).eval(), torch.randn(1, 3, 64, 96)
    maps = cluster_maps(backbone, image, [0, 3])
    titles = ['stage 1, coarse scale', 'stage 1, fine scale', 'stage 4, all tokens']
    assert [each.title for each in maps] == titles
    assert [each.title for each in cluster_maps(backbone, image, [0, 3], heads='all')] == titles
    (fine,) = cluster_maps(backbone, image, [0], block=0, heads=1)
    assert fine.title == 'stage 1, block 1, fine scale'
    assert torch.equal(fine.ids, token_clusters(backbone, image, [0])[0].ids[0, 1])
    assert cluster_sheet(np.zeros((64, 96, 3), np.uint8), maps).shape[1] == 1200


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
