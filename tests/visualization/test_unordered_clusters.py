"""Clusters without order: their colours tell neighbours apart."""

import numpy as np
import pytest
import torch

from mmsec.datasets.regions import Regions
from mmsec.models import ClusTR
from mmsec.models.inspection import token_clusters
from mmsec.visualization.clusters import UNORDERED, ClusterMap, cluster_maps, cluster_sheet, colours_apart
from mmsec.visualization.contact_sheet import SheetRow, contact_sheet

SMALL = dict(embed_dims=(16, 32), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1, 1), sr_ratios=(8, 1))


def cells(height: int, width: int, count: int) -> np.ndarray:
    """The cells of ``count`` random places, ids in no order."""
    rng = np.random.default_rng(0)
    places = rng.choice(height * width, count, replace=False)
    at = np.indices((height, width)).reshape(2, -1, 1)
    return np.square(at - np.stack(np.divmod(places, width))[:, None]).sum(0).argmin(1).reshape(height, width)


@pytest.mark.parametrize(('size', 'count'), [((60, 90), 400), ((1, 1), 1), ((1, 40), 40), ((20, 3), 2)])
def test_neighbours_have_different_colours(size, count):
    ids = cells(*size, count)
    colours = colours_apart(ids, len(UNORDERED))[ids]
    for cluster_pair, colour_pair in (
        ((ids[1:], ids[:-1]), (colours[1:], colours[:-1])),
        ((ids[:, 1:], ids[:, :-1]), (colours[:, 1:], colours[:, :-1])),
    ):
        assert np.array_equal(np.equal(*cluster_pair), np.equal(*colour_pair))
    assert len(np.unique(colours)) == min(count, len(UNORDERED))


def test_where_colours_do_not_suffice_equal_ones_share_little_border():
    ids = np.random.default_rng(0).integers(0, 30, (40, 40))  # every cluster touches every other
    shared = []
    for colours in (colours_apart(ids, 18), np.arange(30) % 18):
        drawn = colours[ids]
        shared.append(((drawn[1:] == drawn[:-1]) & (ids[1:] != ids[:-1])).sum())
    assert 0 < shared[0] < 0.8 * shared[1]


def test_a_cluster_has_its_colour_at_its_place_on_the_sheet():
    ids = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(50, 0).repeat_interleave(50, 1)
    sheet = cluster_sheet(np.zeros((400, 400, 3), np.uint8), [ClusterMap('stage 1, fine scale', 4, ids)]).astype(int)
    middle = len(sheet) // 2 + 15  # below the title
    for cluster, (row, column) in enumerate([(-150, 750), (-150, 1050), (150, 750), (150, 1050)]):
        wanted = 0.7 * 255 * UNORDERED[cluster] + 0.3 * 64  # over black, drawn as dark grey
        assert np.abs(sheet[middle + row, column] - wanted).max() <= 2


def test_both_scales_are_drawn_and_named():
    backbone, image = ClusTR(SMALL, out_indices=(0, 1)).eval(), torch.randn(1, 3, 64, 96)
    maps = cluster_maps(backbone, image, [0, 1])
    titles = ['stage 1, coarse scale', 'stage 1, fine scale', 'stage 2, all tokens']
    assert [each.title for each in maps] == titles
    assert [each.title for each in cluster_maps(backbone, image, [0, 1], heads='all')] == titles
    assert [int(each.ids.max()) + 1 for each in maps] == [6, 24, 1]
    (fine,) = cluster_maps(backbone, image, [0], block=0, heads=1)
    assert fine.title == 'stage 1, block 1, fine scale'
    assert torch.equal(fine.ids, token_clusters(backbone, image, [0])[0].ids[0, 1])
    with pytest.raises(ValueError, match=r"heads must be 'all', 'mean' or in \[0, 1\], got 2"):
        cluster_maps(backbone, image, [0], heads=2)
    assert cluster_sheet(np.zeros((64, 96, 3), np.uint8), maps).shape[1] == 1200


def test_a_contact_sheet_of_clusters_without_order_has_no_legend_of_an_order():
    masks = np.zeros((0, 40, 40), bool)
    nothing = Regions(masks, np.zeros(0, int))
    heights = []
    for scores in (None, torch.zeros(10, 10)):
        maps = [ClusterMap('stage 1, fine scale', 4, torch.arange(100).view(10, 10), scores)]
        sheet = contact_sheet([SheetRow(np.zeros((40, 40, 3), np.uint8), nothing, nothing, maps)], [], None)
        heights.append((sheet[-25:] < 128).any())  # text below the bar
    assert heights == [False, True]
