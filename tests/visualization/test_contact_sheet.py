import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmsec.visualization.clusters import ClusterMap
from mmsec.visualization.contact_sheet import Regions, SheetRow, contact_sheet, regions


def one_map(height, width, num_clusters, title='stage 1, head 1'):
    scores = torch.linspace(-1, 1, height * width).view(height, width)
    ids = (torch.arange(height * width) * num_clusters // (height * width)).view(height, width)
    return ClusterMap(title, 4, ids, scores)


def test_regions_of_instances_come_largest_first_and_above_the_threshold():
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[0, 0, 0] = masks[1, :, :] = masks[2, :2, :] = 1
    truth = InstanceData(masks=BitmapMasks(masks, 4, 4), labels=torch.tensor([5, 6, 7]))
    found = InstanceData(masks=torch.tensor(masks).bool(), labels=torch.tensor([5, 6, 7]))
    found.scores = torch.tensor([0.9, 0.2, 0.5])
    sample = DetDataSample(gt_instances=truth, pred_instances=found)
    assert regions(sample, 'gt').labels.tolist() == [6, 7, 5]
    kept = regions(sample, 'pred', score_thr=0.5)
    assert kept.labels.tolist() == [7, 5]
    assert kept.masks.sum((1, 2)).tolist() == [8, 1]


def test_regions_of_boxes_are_filled_and_cut_at_the_image():
    boxes = InstanceData(bboxes=torch.tensor([[1.0, 1.0, 9.0, 3.0]]), labels=torch.tensor([2]))
    sample = DetDataSample(gt_instances=boxes, metainfo={'ori_shape': (4, 6)})
    masks = regions(sample, 'gt').masks
    assert masks.shape == (1, 4, 6)
    assert masks[0].nonzero()[0].tolist() == [1] * 5 + [2] * 5


def test_regions_of_a_segmentation_leave_out_what_is_not_labelled():
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([[[0, 3, 3], [255, 3, 0]]])))
    found = regions(sample, 'gt')
    assert found.labels.tolist() == [3, 0]
    assert found.masks.tolist() == [[[0, 1, 1], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]]]
    assert len(regions(sample, 'pred').masks) == 0


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


def test_regions_leave_out_labels_that_are_no_class():
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([[[0, 200], [1, 1]]])))
    assert regions(sample, 'gt', num_classes=2).labels.tolist() == [1, 0]
