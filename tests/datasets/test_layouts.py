"""The configs of Cityscapes and VOC 2012 read folders in the layouts that the hosts document."""

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmsec.datasets.coco import instance, write_instances
from tests.conftest import ROOT


def picture(path, labels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((64, 128, 3), 99, np.uint8) if labels is None else labels)


def cityscapes(root, split, labels):
    """An image, its label map, and an annotation file of mmdetection's converter."""
    name = 'aachen/aachen_000000_000019'
    picture(root / f'leftImg8bit/{split}/{name}_leftImg8bit.png')
    picture(root / f'gtFine/{split}/{name}_gtFine_labelTrainIds.png', labels)
    image = dict(id=3, file_name=f'{name}_leftImg8bit.png', height=64, width=128)
    classes = ('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle')
    write_instances(
        root / f'annotations/instancesonly_filtered_gtFine_{split}.json',
        'Cityscapes',
        [image],
        [instance(labels == 2, image_id=3, category_id=26)],
        [dict(id=24 + i, name=name) for i, name in enumerate(classes)],
    )


def voc(root, split, labels):
    picture(root / f'JPEGImages/{split}_1.jpg')
    picture(root / f'SegmentationClass/{split}_1.png', labels)
    listed = root / f'ImageSets/Segmentation/{split}.txt'
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text(f'{split}_1\n')


def samples(name, root, split):
    """The samples of a split as a loader of the config would give them."""
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    init_default_scope(cfg.default_scope)
    dataset = cfg[f'{split}_dataloader'].dataset
    dataset.get('dataset', dataset).data_root = str(root)
    built = DATASETS.build(dataset)
    return [built[i] for i in range(len(built))]


@pytest.mark.parametrize(
    ('name', 'write', 'classes'),
    [('mmseg/secvit/secvit_t_upernet_cityscapes', cityscapes, 19), ('mmseg/secvit/secvit_t_upernet_voc2012', voc, 21)],
)
def test_label_maps_are_read_and_no_class_is_taken_away(tmp_path, name, write, classes):
    labels = np.resize(np.arange(classes, dtype=np.uint8), (64, 128))
    labels[:, :4] = 255
    for split in ('train', 'val'):
        write(tmp_path, split, labels)
    (sample,) = samples(name, tmp_path, 'val')
    assert np.array_equal(sample['data_samples'].gt_sem_seg.data[0].numpy(), labels)
    (sample,) = samples(name, tmp_path, 'train')
    assert sample['inputs'].shape[1:] == sample['data_samples'].gt_sem_seg.data.shape[1:]


def test_things_of_cityscapes_are_read(tmp_path):
    labels = np.zeros((64, 128), np.uint8)
    labels[20:40, 50:90] = 2
    for split in ('train', 'val'):
        cityscapes(tmp_path, split, labels)
    (sample,) = samples('mmdet/secvit/secvit_t_maskrcnn_cityscapes', tmp_path, 'val')
    assert sample['data_samples'].gt_instances.labels.tolist() == [2]
    assert sample['data_samples'].gt_instances.bboxes.tensor.tolist() == [[50, 20, 90, 40]]
    passes = samples('mmdet/secvit/secvit_t_maskrcnn_cityscapes', tmp_path, 'train')
    assert [len(each['data_samples'].gt_instances) for each in passes] == [1] * 8
