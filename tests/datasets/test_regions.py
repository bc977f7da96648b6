"""Areas of an image that have a class, from the samples of both hosts."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmsec.datasets.regions import regions


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
    assert regions(sample, 'gt', num_classes=3).labels.tolist() == [0]  # 3 is no class
    assert len(regions(sample, 'pred').masks) == 0
