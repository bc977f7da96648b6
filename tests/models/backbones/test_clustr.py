import numpy as np
import pytest
import torch

from mmsec.models import ClusTR
from mmsec.models.inspection import scales_of, token_clusters
from mmsec.ops.merging import Merging
from tests.conftest import DATA
from tests.conftest import SMALL_CLUSTR as SMALL

CHECKPOINT = dict(type='Pretrained', checkpoint=str(DATA / 'clustr_official_small.pth'))


def small(**options) -> ClusTR:
    return ClusTR(SMALL, **options)


@pytest.mark.parametrize(('arch', 'parameters'), [('b1', 11_169_417), ('b2', 22_177_941), ('b3', 39_733_210)])
def test_parameter_counts_are_the_published_ones(arch, parameters):
    with torch.device('meta'):
        assert sum(p.numel() for p in ClusTR(arch).parameters()) == parameters


@pytest.mark.parametrize('region_size', [None, 18 * 25])  # as many tokens as the first map has
@pytest.mark.parametrize('size', ['64x96', '72x100'])
def test_maps_are_those_of_the_public_code(size, region_size):
    backbone = small(init_cfg=CHECKPOINT, region_size=region_size)
    backbone.init_weights()
    backbone.double().eval()
    with np.load(DATA / 'clustr_official_small.npz') as measured, torch.no_grad():
        maps = backbone(torch.from_numpy(measured[f'image_{size}']).double())
        for i, ours in enumerate(maps):
            wanted = torch.from_numpy(measured[f'map{i}_{size}'])
            assert (ours - wanted).norm() <= 1e-6 * wanted.norm()
            assert (ours - wanted).abs().max() <= 1e-6 * wanted.abs().max()


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 70), (37, 53), (112, 137), (333, 500)])
@pytest.mark.parametrize('region_size', [None, 256])
def test_any_size_gives_maps_at_strides_4_to_32(height, width, region_size):
    with torch.no_grad():
        maps = small(region_size=region_size).eval()(torch.randn(1, 3, height, width))
    for i, m in enumerate(maps):
        stride = 4 * 2**i
        assert m.shape == (1, SMALL['embed_dims'][i], -(-height // stride), -(-width // stride))
        assert m.is_contiguous()
        assert m.isfinite().all()


@pytest.mark.parametrize('size', [(64, 64), (37, 53)])
def test_a_batch_gives_what_its_images_give(size):
    backbone = small(region_size=256).double().eval()
    images = torch.randn(3, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        together = backbone(images)
        apart = [backbone(image[None]) for image in images]
    for i, m in enumerate(together):
        torch.testing.assert_close(m, torch.cat([one[i] for one in apart]))


def test_outputs_and_gradients_are_deterministic():
    backbone = small(drop_path_rate=0.0)
    images = torch.randn(2, 3, 64, 96)
    runs = []
    for _ in range(2):
        maps = backbone(images)
        gradients = torch.autograd.grad(sum(m.square().sum() for m in maps), list(backbone.parameters()))
        runs.append([*maps, *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_clusters_do_not_reach_beyond_their_region():
    whole, regions = small().eval(), small(region_size=256).eval()
    regions.load_state_dict(whole.state_dict())
    images = torch.randn(1, 3, 96, 96)  # 24x24 tokens at stride 4, in regions of 12x12
    for backbone, shared in ((whole, True), (regions, False)):
        fine = token_clusters(backbone, images, [0])[0].ids[0, 1]
        left, right = (set(part.unique().tolist()) for part in fine.tensor_split(2, dim=1))
        assert bool(left & right) is shared


def test_maps_come_in_the_order_of_out_indices():
    backbone = small(out_indices=(2, 0)).eval()
    assert [m.shape[1] for m in backbone(torch.randn(1, 3, 64, 64))] == [48, 16]
    assert len(backbone.stages) == 3


def test_maps_are_the_output_of_the_norm_of_their_stage():
    m = small().eval()(torch.randn(1, 3, 64, 64))[1]
    torch.testing.assert_close(m.mean(1), torch.zeros_like(m.mean(1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(m.var(1, unbiased=False), torch.ones_like(m.mean(1)), atol=1e-2, rtol=0)


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1,), (0, 2)])
def test_every_parameter_receives_a_gradient(out_indices):
    backbone = small(out_indices=out_indices).train()
    sum((m * torch.randn_like(m)).sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_frozen_stages_stay_as_they_are_and_the_rest_learns(frozen_stages):
    backbone = small(frozen_stages=frozen_stages, drop_path_rate=0.5).train()

    def frozen(name):
        stage = int(name.split('.')[1])
        return frozen_stages > stage or (frozen_stages == 0 and name.startswith('stages.0.patch_embed.'))

    loss = sum((m * torch.randn_like(m)).sum() for m in backbone(torch.randn(2, 3, 64, 64)))
    if frozen_stages < 4:
        loss.backward()
    for name, p in backbone.named_parameters():
        assert p.requires_grad is not frozen(name), name
        assert (p.grad is not None) is not frozen(name), name
    for name, module in backbone.named_modules():
        if name.count('.') >= 2:
            assert module.training is not frozen(name + '.'), name


@pytest.mark.parametrize('frozen_stages', [-1, 1])
def test_checkpointing_gives_the_same_gradients_and_recomputes_blocks(frozen_stages):
    images = torch.randn(2, 3, 50, 66, dtype=torch.float64)
    gradients, calls = [], []
    for with_cp in (False, True):
        torch.manual_seed(1)
        backbone = small(with_cp=with_cp, frozen_stages=frozen_stages, drop_path_rate=0.3).double().train()
        backbone.stages[2].blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
        torch.manual_seed(2)
        sum((m * m.detach().sin()).sum() for m in backbone(images)).backward()
        gradients.append({name: p.grad for name, p in backbone.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*gradients)
    assert len(calls) == 1 + 2


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('make', [torch.randn, torch.zeros])
def test_autocast_gives_finite_maps_and_gradients(dtype, make):
    backbone = small(region_size=256).train()
    with torch.autocast('cpu', dtype):
        maps = backbone(make(2, 3, 70, 90))
    assert all(m.isfinite().all() for m in maps)
    sum(m.float().square().sum() for m in maps).backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


def test_drop_path_rises_linearly_over_all_blocks():
    backbone = ClusTR('b1', drop_path_rate=0.09)
    rates = [block.drop_path.drop_prob for stage in backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0.01 * i for i in range(10)])


def test_initial_weights_are_the_published_ones():
    backbone = ClusTR('b1')
    mlp = backbone.stages[3].blocks[0].mlp
    assert mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert mlp.dwconv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert backbone.stages[1].patch_embed.proj.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    assert not any(p.any() for name, p in backbone.named_parameters() if name.endswith('bias'))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='b4'), r"arch must be one of \['b1', 'b2', 'b3'\] or a dict, got 'b4'"),
        (dict(arch=dict(depths=(1,))), r"an arch dict must have the keys .* got \['depths'\]"),
        (dict(arch=SMALL | dict(depths=(1, 2))), r"must have one length, got .*'depths': 2"),
        (dict(arch=SMALL | dict(num_heads=(3, 2, 4, 6))), r'embed_dims must be a multiple of num_heads, got 16 and 3'),
        (dict(arch=SMALL | dict(sr_ratios=(8, 4, 0, 1))), r'sr_ratios must be at least 1, got \(8, 4, 0, 1\)'),
        (dict(region_size=255), r'region_size=255 is too small for clusters of 64 tokens: give at least 256'),
        (dict(out_indices=(0, 4)), r'out_indices must be in \[0, 3\], got \(0, 4\)'),
        (dict(frozen_stages=5), r'frozen_stages must be in \[-1, 4\], got 5'),
        (dict(drop_path_rate=1.0), r'drop_path_rate must be in \[0, 1\), got 1.0'),
    ],
)
def test_unusable_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ClusTR(**{'arch': SMALL, **options})


def test_unknown_options_are_named():
    with pytest.raises(TypeError, match='norm_eval'):
        ClusTR('b1', norm_eval=True)


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_builds_from_each_hosts_registry(host):
    registry = pytest.importorskip(f'{host}.registry')
    assert isinstance(registry.MODELS.build(dict(type='mmsec.ClusTR', arch=SMALL)), ClusTR)


@pytest.mark.parametrize(('stage', 'block'), [(0, 0), (1, -1), (2, 0)])
def test_clusters_are_those_that_attention_merges(monkeypatch, stage, block):
    backbone, images = small().eval(), torch.randn(2, 3, 70, 90)
    used = []
    merged = Merging.sum
    monkeypatch.setattr(Merging, 'sum', lambda self, x: used.append(self.assignment) or merged(self, x))
    size = backbone(images)[stage].shape[2:]
    first = 2 * (sum(SMALL['depths'][:stage]) + block % SMALL['depths'][stage])  # two scales in each block
    wanted = torch.stack(used[first : first + 2], dim=1).unflatten(-1, size)
    (found,) = token_clusters(backbone, images, [stage], block)
    assert torch.equal(found.ids, wanted)
    assert found.scores is None
    assert scales_of(backbone, stage) == ('coarse scale', 'fine scale')


def test_attention_to_all_tokens_is_one_cluster():
    backbone = small().eval()
    (found,) = token_clusters(backbone, torch.randn(2, 3, 70, 90), [3])
    assert found.ids.shape == (2, 1, 3, 3)
    assert not found.ids.any()
    assert scales_of(backbone, 3) == ('all tokens',)


def agree(compiled, backbone, images):
    """Whether outputs and gradients are what the backbone gives when it is not compiled."""
    results = []
    for run in (compiled, backbone):
        maps = run(images)
        gradients = torch.autograd.grad(sum(m.square().sum() for m in maps), list(backbone.parameters()))
        results.append([*maps, *gradients])
    for ours, wanted in zip(*results, strict=True):
        assert (ours - wanted).norm() <= 1e-9 * wanted.norm() + 1e-12


def test_one_graph_for_every_image_size_forward_and_backward():
    torch._dynamo.reset()
    arch = dict(embed_dims=(8,), depths=(1,), num_heads=(1,), mlp_ratios=(1,), sr_ratios=(8,))
    backbone = ClusTR(arch, out_indices=(0,), region_size=256).double().eval()
    compiled = torch.compile(backbone, backend='aot_eager', fullgraph=True, dynamic=True)
    agree(compiled, backbone, torch.randn(2, 3, 64, 96, dtype=torch.float64))
    with torch.compiler.set_stance('fail_on_recompile'):
        for size in ((128, 96), (91, 157)):
            agree(compiled, backbone, torch.randn(2, 3, *size, dtype=torch.float64))
