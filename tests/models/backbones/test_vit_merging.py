"""Ways of merging inside a ViT: any size, any batch, checkpointing, and the grid that CubistMerge leaves."""

import pytest
import torch

from mmsec.models import ViT
from tests.models.backbones.small import assert_close, outputs_and_gradients, with_large_weights

TINY = dict(arch=dict(embed_dims=16, depth=4, num_heads=2, mlp_ratio=2), patch_size=4, img_size=24, out_indices=(1, 3))
WAYS = {
    'ALGM': dict(layers=(0, 1, 3), threshold=0.3),
    'MPM': dict(layers=(0, 2)),
    'CubistMerge': dict(after_block=2, r=0.3),
    'AiluRus': dict(after_block=1),
    'ATC': dict(layers=(0, 2)),
}


def tiny(**options):
    return with_large_weights(ViT(**TINY | options)).double().eval()


@pytest.fixture(params=WAYS)
def merging(request):
    return dict(type=request.param, **WAYS[request.param])


@pytest.mark.parametrize('front', [{}, dict(num_registers=2), dict(with_cls_token=False)], ids=str)
@torch.no_grad()
def test_any_size_is_taken_and_a_batch_gives_what_its_images_give(merging, front):
    backbone = tiny(merging=merging, **front)
    for size in ((24, 32), (37, 53), (3, 9), (1, 1)):
        x = torch.randn(3, 3, *size, dtype=torch.float64)
        x[0] *= 0.1  # fewer or more of its tokens are alike
        maps = backbone(x)
        assert maps[0].shape == (3, 16, -(-size[0] // 4), -(-size[1] // 4))
        alone = [backbone(image[None]) for image in x]
        assert_close(maps, [torch.cat(each) for each in zip(*alone, strict=True)], smallest=1e-9)


def test_gradients_are_the_same_with_checkpointing(merging):
    results, x = [], torch.randn(2, 3, 26, 31, dtype=torch.float64)
    for with_cp in (False, True):
        torch.manual_seed(1)
        backbone = tiny(with_cp=with_cp, merging=merging).train()
        torch.manual_seed(2)  # drop path
        results.append(outputs_and_gradients(backbone, x))
        assert all(each.any() for each in results[-1])
    assert_close(*results)


@torch.no_grad()
def test_what_merges_in_front_of_a_block_leaves_the_map_before_it_whole():
    x = torch.randn(1, 3, 24, 32, dtype=torch.float64)
    merging = dict(type='CubistMerge', after_block=2, r=0.5)
    backbone = tiny(merging=merging)
    plain = tiny()
    plain.load_state_dict(backbone.state_dict())
    assert torch.equal(backbone(x)[0], plain(x)[0])
    assert [each.x.shape[1] for each in backbone.tokens(x)] == [49, 49, 13, 13]
    windowed = tiny(merging=merging, window_size=2, global_blocks=(3,))
    assert [each.grid for each in windowed.tokens(x)] == [(6, 8), (6, 8), (3, 4), (3, 4)]
    assert windowed(x)[1].shape == (1, 16, 6, 8)
