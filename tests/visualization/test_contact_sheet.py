import numpy as np
import pytest
import torch
from matplotlib import colormaps

from mmsec.datasets.regions import Regions
from mmsec.visualization.clusters import PALETTE, ClusterMap
from mmsec.visualization.contact_sheet import SheetRow, contact_sheet
from tests.visualization.test_clusters import one_map


def row_of(masks, labels, found, *maps):
    """A black image, of whose regions the first ones are found."""
    labels = np.array(labels, int)
    image = np.zeros((*np.shape(masks)[1:], 3), np.uint8)
    return SheetRow(image, Regions(masks, labels), Regions(masks[:found], labels[:found]), list(maps))


def test_clusters_without_order_have_no_legend_of_an_order():
    heights = []
    for scores in (None, torch.zeros(10, 10)):
        clusters = ClusterMap('stage 1, fine scale', 4, torch.arange(100).view(10, 10), scores)
        sheet = contact_sheet([row_of(np.zeros((0, 40, 40), bool), [], 0, clusters)], [], None)
        heights.append((sheet[-25:] < 128).any())  # text below the bar
    assert heights == [False, True]


@pytest.mark.parametrize('maps', [0, 3])
@pytest.mark.parametrize('palette', [None, [(255, 0, 0), (0, 255, 0)]])
def test_a_contact_sheet_shows_truth_in_the_colour_of_its_class(maps, palette):
    row = row_of(np.ones((1, 40, 40), bool), [0], 0, *[one_map(10, 10, 4)] * maps)
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
    sheet = contact_sheet([row_of(masks, [0, 1], 0)], ['cat', 'dog'], [(255, 0, 0), (0, 255, 0)]).astype(int)
    height = int(0.4 * len(sheet))
    assert np.abs(sheet[height, int(1200 * 1.25 / 3)] - [0, 0.7 * 255, 0]).max() <= 2
    assert sheet[height, 550:650].min(-1).max() > 150  # the outline
    assert np.abs(sheet[height, int(1200 * 1.75 / 3)] - [0.7 * 255, 0, 0]).max() <= 2


def test_the_legend_of_a_contact_sheet_fits_for_any_names():
    names = [f'a very long name of class {i}' for i in range(9)]
    masks = np.eye(9, dtype=bool).reshape(9, 3, 3)
    legend = contact_sheet([row_of(masks, range(9), 9)], names, None)[-60:]
    assert (legend < 128).any()  # text
    assert (legend[:, :8] > 250).all()  # and none at the edges
    assert (legend[:, -8:] > 250).all()


def test_a_region_one_pixel_wide_is_drawn():
    masks = np.zeros((1, 5, 1), bool)
    masks[0, 2] = True
    assert contact_sheet([row_of(masks, [0], 1)], ['cat'], None).shape[1] == 1200


@pytest.mark.parametrize('maps', [0, 1, 3, 6])
@pytest.mark.parametrize(
    'sizes', [[(64, 64)], [(60, 90)], [(40, 400)], [(400, 40)], [(60, 90), (40, 400)], [(64, 64), (60, 90), (400, 40)]]
)
def test_titles_stand_whole_above_images_of_any_number_and_shape(sizes, maps):
    rows = [row_of(np.ones((1, *size), bool), [0], 1, *[one_map(10, 10, 4)] * maps) for size in sizes]
    sheet = contact_sheet(rows, ['cat'], None).min(-1)
    assert (sheet[:2] > 200).all()  # nothing is cut off
    top = np.flatnonzero((sheet < 128).any(1))[0]  # of the letters
    assert (sheet[top : top + 6] > 200).mean() > 0.5  # and no panel among them
