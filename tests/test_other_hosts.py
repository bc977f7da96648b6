"""Hosts beside the three whose rooms are tested in full: their configs build, learn for two steps and predict."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from mmsec.cli import torchvision_apart  # noqa: F401
from mmsec.cli.config import load_config
from tests.conftest import ROOT


def rotated(model, size):
    """Two images with a rotated box each."""
    from mmdet.structures import DetDataSample
    from mmrotate.structures.bbox import RotatedBoxes

    samples = []
    for _ in range(2):
        boxes = RotatedBoxes(torch.tensor([[40.0, 30, 30, 12, 0.4]]))
        sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes, labels=torch.tensor([3])))
        sample.set_metainfo(dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0)))
        samples.append(sample)
    return samples


def keypoints(model, size):
    """Two people with heatmaps of 17 keypoints."""
    from mmengine.structures import PixelData
    from mmpose.structures import PoseDataSample

    samples = []
    for _ in range(2):
        sample = PoseDataSample(
            gt_fields=PixelData(heatmaps=torch.rand(17, size[0] // 32 * 8, size[1] // 32 * 8)),
            gt_instance_labels=InstanceData(keypoint_weights=torch.ones(1, 17)),
            gt_instances=InstanceData(bboxes=torch.zeros(1, 4).numpy(), bbox_scores=torch.ones(1).numpy()),
        )
        info = dict(input_size=size[::-1], input_center=np.full(2, 32.0), input_scale=np.full(2, 64.0))
        sample.set_metainfo(dict(info, img_shape=size, flip_indices=list(range(17))))
        samples.append(sample)
    return samples


@pytest.mark.parametrize(
    ('host', 'name', 'samples', 'size'),
    [
        ('mmrotate', 'secvit/secvit_t_rotated_retinanet', rotated, (64, 96)),
        ('mmpose', 'secvit/secvit_t_heatmap', keypoints, (256, 192)),
        ('mmpose', 'clustr/clustr_b1_heatmap', keypoints, (256, 192)),
    ],
)
def test_a_config_learns_and_predicts(host, name, samples, size):
    pytest.importorskip(host)
    cfg = load_config(str(ROOT / f'configs/{host}/{name}.py'))
    init_default_scope(host)
    cfg.model.backbone.update(init_cfg=None)
    model = MODELS.build(cfg.model)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    data = dict(inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8)] * 2, data_samples=samples(model, size))
    losses = []
    for _ in range(2):
        given = model.data_preprocessor(data, training=True)
        found = model.loss(given['inputs'], given['data_samples'])
        loss, _ = model.parse_losses(found)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    model.eval()
    with torch.no_grad():
        given = model.data_preprocessor(data, training=False)
        assert len(model.predict(given['inputs'], given['data_samples'])) == 2
