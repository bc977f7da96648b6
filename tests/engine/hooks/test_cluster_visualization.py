import types

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from mmsec.engine.hooks.cluster_visualization import ClusterVisualizationHook
from mmsec.models import SecViT
from tests.conftest import SMALL_ARCH

FIVE = [f'photos/{i}.jpg' for i in range(5)]


def a_runner(backbone, images=FIVE):
    pixels = torch.randint(0, 255, (len(images), 3, 40, 60), dtype=torch.uint8)
    elements = [BaseDataElement(metainfo={'img_path': image}) for image in images]
    samples = [{'inputs': each, 'data_samples': element} for each, element in zip(pixels, elements, strict=True)]
    model = nn.Module()
    model.backbone = backbone
    model.data_preprocessor = lambda batch, training: {'inputs': torch.stack(batch['inputs']) / 255}
    loader = types.SimpleNamespace(dataset=samples)
    drawn = {}
    visualizer = types.SimpleNamespace(add_image=lambda name, image, step: drawn.update({(name, step): image}))
    return types.SimpleNamespace(model=model, val_dataloader=loader, visualizer=visualizer, drawn=drawn, iter=7)


def test_sheets_of_the_same_images_go_to_the_visualizer():
    runner = a_runner(SecViT(SMALL_ARCH).train())
    hook = ClusterVisualizationHook(num_images=2, stages=(0,))
    hook.before_train(runner)
    for runner.iter in (7, 14):
        hook.after_val_epoch(runner)
    assert list(runner.drawn) == [(f'clusters_{i}', step) for step in (7, 14) for i in (0, 4)]
    first, second = (runner.drawn['clusters_0', step] for step in (7, 14))
    assert first.shape[1:] == (1200, 3)
    assert np.array_equal(first, second)
    assert runner.model.backbone.training


def test_no_sheet_is_drawn_over_another():
    runner = a_runner(SecViT(SMALL_ARCH), ['a/1.jpg', 'b/1.jpg', 'a%2F1.jpg'])
    ClusterVisualizationHook(num_images=9, stages=(0,)).after_val_epoch(runner)
    names = [name for name, _ in runner.drawn]
    assert names == ['clusters_a%2F1', 'clusters_b%2F1', 'clusters_a%252F1']
    assert not any('/' in name for name in names)  # LocalVisBackend would write into a folder that is not there


@pytest.mark.parametrize(
    ('backbone', 'options', 'message'),
    [
        (nn.Linear(1, 1), {}, 'the backbone is a Linear, none of mmsec'),
        *((SecViT(SMALL_ARCH), {'stages': each}, r'stages must be in \[0, 3\]') for each in ((), (4,), (0, -1))),
        (SecViT(SMALL_ARCH), {'num_images': 0}, 'num_images must be at least 1, got 0'),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_training(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        ClusterVisualizationHook(**options).before_train(a_runner(backbone))
