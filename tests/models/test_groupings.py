"""What every way of grouping keeps inside a backbone, by being registered."""

import pytest
import torch

from mmsec.models import SecViT
from mmsec.models.inspection import token_clusters
from mmsec.ops import Grouping, cluster_ids
from mmsec.ops.grouping import GroupingMethod
from tests.conftest import SMALL_ARCH, each_grouping
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
    parameters = list(backbone.parameters())
    results = []
    for run in (backbone, lambda x: reference.forward(backbone, x, ids=used)):
        maps = run(images)
        gradients = torch.autograd.grad(sum(m.square().sum() for m in maps), parameters)
        results.append([*maps, *gradients])
    assert len(used) == sum(SMALL_ARCH['depths'])
    for ours, wanted in zip(*results, strict=True):
        assert (ours - wanted).norm() <= 1e-9 * wanted.norm() + 1e-10


@each_grouping
def test_a_batch_gives_what_its_images_give_alone(grouping):
    backbone = small(grouping=grouping, num_clusters=(7, 5, 3, 2)).eval()
    images = torch.randn(2, 3, 37, 53, dtype=torch.float64)
    with torch.no_grad():
        together = backbone(images)
        apart = [backbone(image[None]) for image in images]
    for i, m in enumerate(together):
        torch.testing.assert_close(m, torch.cat([one[i] for one in apart]))


@each_grouping
@pytest.mark.parametrize('size', [(1, 1), (1, 70), (37, 53)])
def test_any_size_is_taken(grouping, size):
    with torch.no_grad():
        maps = small(grouping=grouping, num_clusters=(100, 90, 3, 2)).train(False)(torch.randn(1, 3, *size).double())
    assert all(m.isfinite().all() for m in maps)


@each_grouping
def test_checkpointing_gives_the_same_gradients(grouping):
    images = torch.randn(2, 3, 50, 66, dtype=torch.float64)
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(1)
        backbone = small(grouping=grouping, num_clusters=(7, 5, 3, 2), with_cp=with_cp).train()
        torch.manual_seed(2)
        sum((m * m.detach().sin()).sum() for m in backbone(images)).backward()
        gradients.append([p.grad for p in backbone.parameters()])
    torch.testing.assert_close(*gradients)


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
        token_clusters(backbone, images, range(4)), SMALL_ARCH['num_heads'], backbone.strides, strict=True
    ):
        assert found.ids.shape == (2, heads, 64 // stride, 96 // stride)
        assert bool(found.score_name) == (found.scores is not None)


def test_blocks_with_clusters_and_groupings_of_their_own_equal_the_reference():
    options = dict(num_clusters=(7, [5, 2], (3, 1), 1), grouping=[dict(type='SemanticGrouping')] * 4)
    backbone, images = small(**options).eval(), torch.randn(2, 3, 91, 70, dtype=torch.float64)
    for ours, wanted in zip(backbone(images), reference.forward(backbone, images), strict=True):
        torch.testing.assert_close(ours, wanted)
