"""torch.compile takes the whole backbone as one graph, and the graph is good for any image size."""

import pytest
import torch

from mmsec.models import SecViT

TWO_STAGES = dict(embed_dims=(16, 32), depths=(1, 1), num_heads=(1, 2), mlp_ratio=1, layer_scale=(False, True))


def agree(compiled, backbone, images):
    """Whether outputs and gradients are what the backbone gives when it is not compiled."""
    results = []
    for run in (compiled, backbone):
        maps = run(images)
        gradients = torch.autograd.grad(sum(m.square().sum() for m in maps), list(backbone.parameters()))
        results.append([*maps, *gradients])
    for ours, wanted in zip(*results, strict=True):
        assert (ours - wanted).norm() <= 1e-9 * wanted.norm() + 1e-12


@pytest.mark.parametrize('clustering', [dict(num_clusters=(8, 2)), dict(cluster_size=20)])
def test_one_graph_for_every_image_size_forward_and_backward(clustering):
    torch._dynamo.reset()
    backbone = SecViT(TWO_STAGES, out_indices=(0, 1), **clustering).double().eval()
    compiled = torch.compile(backbone, backend='aot_eager', fullgraph=True, dynamic=True)
    agree(compiled, backbone, torch.randn(2, 3, 64, 96, dtype=torch.float64))
    with torch.compiler.set_stance('fail_on_recompile'):
        for size in ((128, 96), (100, 132), (91, 157)):  # the last two do not divide by the cluster counts
            agree(compiled, backbone, torch.randn(2, 3, *size, dtype=torch.float64))


def test_inductor_compiles_it_and_a_second_size_does_not_compile_again(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path))
    backbone = SecViT(TWO_STAGES, num_clusters=(8, 2), out_indices=(0,)).double().eval()
    for _ in ('compiled', 'taken from the cache on disk, with the guards that Inductor noted there'):
        torch._dynamo.reset()
        compiled = torch.compile(backbone, fullgraph=True, dynamic=True)
        agree(compiled, backbone, torch.randn(2, 3, 64, 96, dtype=torch.float64))
        with torch.compiler.set_stance('fail_on_recompile'):
            agree(compiled, backbone, torch.randn(2, 3, 100, 84, dtype=torch.float64))


def test_bfloat16_autocast_compiles():
    torch._dynamo.reset()
    backbone = SecViT(TWO_STAGES, num_clusters=(8, 2), out_indices=(0, 1)).eval()
    compiled = torch.compile(backbone, backend='aot_eager', fullgraph=True, dynamic=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        ours, wanted = compiled(images), backbone(images)
    for a, b in zip(ours, wanted, strict=True):
        assert a.dtype == b.dtype
        assert (a.float() - b.float()).norm() <= 0.1 * b.float().norm()
