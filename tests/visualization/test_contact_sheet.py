import numpy as np
import pytest
import torch
from matplotlib import colormaps

from mmsec.datasets.regions import Regions
from mmsec.visualization.clusters import PALETTE, ClusterMap
from mmsec.visualization.contact_sheet import SheetRow, contact_sheet


def one_map(height, width, num_clusters, title='stage 1, head 1'):
    scores = torch.linspace(-1, 1, height * width).view(height, width)
    ids = (torch.arange(height * width) * num_clusters // (height * width)).view(height, width)
    return ClusterMap(title, 4, ids, scores)


def test_clusters_without_order_have_no_legend_of_an_order():
    nothing = Regions(np.zeros((0, 40, 40), bool), np.zeros(0, int))
    heights = []
    for scores in (None, torch.zeros(10, 10)):
        maps = [ClusterMap('stage 1, fine scale', 4, torch.arange(100).view(10, 10), scores)]
        sheet = contact_sheet([SheetRow(np.zeros((40, 40, 3), np.uint8), nothing, nothing, maps)], [], None)
        heights.append((sheet[-25:] < 128).any())  # text below the bar
    assert heights == [False, True]


@pytest.mark.parametrize('maps', [0, 3])
@pytest.mark.parametrize('palette', [None, [(255, 0, 0), (0, 255, 0)]])
def test_a_contact_sheet_shows_truth_in_the_colour_of_its_class(maps, palette):
    masks = np.ones((1, 40, 40), bool)
    row = SheetRow(
        np.zeros((40, 40, 3), np.uint8),
        Regions(masks, np.array([0])),
        Regions(masks[:0], np.zeros(0, int)),
        [one_map(10, 10, 4)] * maps,
    )
    sheet = contact_sheet([row, row], ['cat', 'dog'], palette).astype(int)
    assert sheet.shape[1:] == (1200, 3)
    darkest = 0.7 * 255 * np.array(colormaps[PALETTE](0.0)[:3]) + 0.3 * 64  # the first cluster, over black
    assert (np.abs(sheet - darkest).max(-1) <= 2).sum() > 2000 * maps or not maps
    if palette:
        columns = 3 + maps
        truth = sheet[int(0.25 * len(sheet)), int(1200 * 1.5 / columns)]
        assert np.abs(truth - [0.7 * 255, 0, 0]).max() <= 2  # over black
        assert sheet[int(0.25 * len(sheet)), int(1200 * 2.5 / columns)].sum() == 0


def test_a_contact_sheet_without_rows_is_an_error():
    with pytest.raises(ValueError, match='at least one row'):
        contact_sheet([], [], [])


def test_on_a_contact_sheet_the_smaller_region_covers_the_larger_one():
    masks = np.ones((2, 8, 8), bool)
    masks[1, :, 4:] = False
    row = SheetRow(
        np.zeros((40, 40, 3), np.uint8), Regions(masks, np.array([0, 1])), Regions(masks[:0], np.zeros(0, int)), []
    )
    sheet = contact_sheet([row], ['cat', 'dog'], [(255, 0, 0), (0, 255, 0)]).astype(int)
    height = int(0.4 * len(sheet))
    assert np.abs(sheet[height, int(1200 * 1.25 / 3)] - [0, 0.7 * 255, 0]).max() <= 2
    assert sheet[height, 550:650].min(-1).max() > 150  # the outline
    assert np.abs(sheet[height, int(1200 * 1.75 / 3)] - [0.7 * 255, 0, 0]).max() <= 2


def test_the_legend_of_a_contact_sheet_fits_for_any_names():
    names = [f'a very long name of class {i}' for i in range(9)]
    masks = np.eye(9, dtype=bool).reshape(9, 3, 3)
    row = SheetRow(np.zeros((40, 40, 3), np.uint8), Regions(masks, np.arange(9)), Regions(masks, np.arange(9)), [])
    sheet = contact_sheet([row], names, None)
    legend = sheet[-60:]
    assert (legend < 128).any()  # text
    assert (legend[:, :8] > 250).all()  # and none at the edges
    assert (legend[:, -8:] > 250).all()


def test_a_region_one_pixel_wide_is_drawn():
    masks = np.zeros((1, 5, 1), bool)
    masks[0, 2] = True
    row = SheetRow(np.zeros((5, 1, 3), np.uint8), Regions(masks, np.array([0])), Regions(masks, np.array([0])), [])
    assert contact_sheet([row], ['cat'], None).shape[1] == 1200
