"""What every way of grouping keeps inside a backbone, by being registered."""

import pytest
import torch

from mmsec.models import SecViT
from mmsec.models.inspection import token_clusters
from mmsec.ops import Grouping, cluster_ids
from mmsec.ops.grouping import GroupingMethod
from tests.conftest import SMALL_ARCH, each_grouping
from tests.models.backbones.small import assert_close, outputs_and_gradients
from tools.analysis_tools import reference

ONE_STAGE = dict(embed_dims=(16,), depths=(1,), num_heads=(2,), mlp_ratio=1, layer_scale=(False,))


def small(**options) -> SecViT:
    return SecViT(SMALL_ARCH, drop_path_rate=0.0, **options).double()


def used_ids(backbone: SecViT) -> list:
    """A list that each forward pass of the backbone adds the clusters of its blocks to."""
    used = []

    def record(module: torch.nn.Module, inputs: tuple, grouping: Grouping) -> None:
        used.append(cluster_ids(grouping))

    for module in backbone.modules():
        if isinstance(module, GroupingMethod):
            module.register_forward_hook(record)
    return used


@each_grouping
@pytest.mark.parametrize('training', [True, False])
def test_attention_and_gradients_are_those_of_the_clusters(grouping, training):
    backbone = small(grouping=grouping, num_clusters=(7, 5, 3, 2)).train(training)
    used = used_ids(backbone)
    images = torch.randn(2, 3, 91, 70, dtype=torch.float64)  # N does not divide by the cluster counts
    ours = outputs_and_gradients(backbone, images)
    assert len(used) == sum(SMALL_ARCH['depths'])
    wanted = outputs_and_gradients(backbone, images, lambda x: reference.forward(backbone, x, ids=used))
    assert_close(ours, wanted, smallest=1e-10)


@each_grouping
@pytest.mark.parametrize('size', [(1, 1), (1, 70), (37, 53)])
def test_a_batch_of_any_size_gives_what_its_images_give_alone(grouping, size):
    backbone = small(grouping=grouping, num_clusters=(100, 90, 3, 2)).eval()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        apart = zip(*(backbone(image[None]) for image in images), strict=True)
        torch.testing.assert_close(backbone(images), tuple(map(torch.cat, apart)))


@each_grouping
def test_checkpointing_gives_the_same_gradients(grouping):
    images, results = torch.randn(2, 3, 50, 66, dtype=torch.float64), []
    for with_cp in (False, True):
        torch.manual_seed(1)
        backbone = small(grouping=grouping, num_clusters=(7, 5, 3, 2), with_cp=with_cp).train()
        torch.manual_seed(2)
        results.append(outputs_and_gradients(backbone, images))
    assert_close(*results)


@pytest.mark.parametrize('name', ['KMeansGrouping', 'WindowGrouping'])  # an operator, and sizes that are tensors
def test_one_graph_for_every_image_size(name):
    torch._dynamo.reset()
    backbone = SecViT(ONE_STAGE, out_indices=(0,), grouping=dict(type=name), cluster_size=10).double().eval()
    compiled = torch.compile(backbone, backend='aot_eager', fullgraph=True, dynamic=True)

    def agree(*size: int) -> None:
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        torch.testing.assert_close(compiled(images), backbone(images))

    with torch.no_grad():  # gradients are those of attention, which test_contract.py compiles
        agree(64, 96)
        with torch.compiler.set_stance('fail_on_recompile'):
            agree(91, 157)  # N does not divide by the clusters


def test_random_clusters_compile_for_training():
    torch._dynamo.reset()
    backbone = SecViT(ONE_STAGE, out_indices=(0,), grouping=dict(type='RandomGrouping'), num_clusters=(8,)).train()
    compiled = torch.compile(backbone, backend='aot_eager', fullgraph=True, dynamic=True)
    images = torch.randn(2, 3, 64, 96)
    first, second = compiled(images)[0], compiled(images)[0]
    assert (first - second).abs().max() > 1e-5  # drawn anew


@each_grouping
def test_one_can_look_at_the_clusters_of_every_head(grouping):
    backbone = small(grouping=grouping, num_clusters=(7, 5, 3, 1)).eval()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for found, heads, stride in zip(
        token_clusters(backbone, images, range(4)), SMALL_ARCH['num_heads'], backbone.stage_strides, strict=True
    ):
        assert found.ids.shape == (2, heads, 64 // stride, 96 // stride)
        assert bool(found.score_name) == (found.scores is not None)
