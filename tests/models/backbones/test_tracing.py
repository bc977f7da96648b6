"""``torch.jit.trace``, for hosts that deploy by it, and ``torch.func``, of every backbone and every way of merging."""

import io

import pytest
import torch
from torch import Tensor

from mmsec import compat
from mmsec.ops.merging import MERGINGS
from tests.models.backbones.small import SMALL, Small, build, outputs_and_gradients


def merging_by(vit: str = 'ViT', /, **merging) -> Small:
    """A ViT that merges."""
    vit = SMALL[vit]
    return vit._replace(options=vit.options | dict(merging=merging))


VARIANTS = SMALL | {
    'ViT with ToMeSD': merging_by(type='ToMeSD', ratio=0.5),
    'ViT with Expedit': merging_by(type='Expedit', after_block=1, size=(2, 3)),
    'ViT with Expedit to a share of the map': merging_by(type='Expedit', after_block=1, size=0.5),
    'ViT with ALGM': merging_by(type='ALGM', layers=(0, 1), threshold=0.3),
    'ViT with MPM': merging_by(type='MPM', layers=(0, 1)),
    'ViT with CubistMerge': merging_by(type='CubistMerge', after_block=1, r=0.25),
    'ViT with AiluRus': merging_by(type='AiluRus', after_block=1),
    'ViT with ATC': merging_by(type='ATC', layers=(0, 1)),
    'DINOv3 with ToMe': merging_by('DINOv3', type='ToMe', r=4),
    'DINOv3 with ToMeSD': merging_by('DINOv3', type='ToMeSD', ratio=0.5),
    'DINOv3 in windows with Expedit': merging_by('DINOv3 in windows', type='Expedit', after_block=1, size=0.5),
}
LOOPS = ('ClusTR', 'ClusTR in regions', 'ViT with AiluRus', 'ViT with ATC')  # whose numbers depend on the image
TRACED = (2, 64, 96)  # images, their height and their width


@pytest.fixture(params=VARIANTS)
def name(request) -> str:
    return request.param


def images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width)


def test_every_way_of_merging_is_tried():
    tried = {small.options.get('merging', {}).get('type') for small in VARIANTS.values()}
    assert tried >= set(MERGINGS)


# A trace is of one way through the code, and torch warns of each place where it turns off.
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore:`torch.jit:DeprecationWarning')
@torch.no_grad()
def test_a_trace_saved_and_loaded_gives_the_same_maps_at_every_size(name):
    backbone, file = build(VARIANTS[name]).eval(), io.BytesIO()
    if not compat.OPERATORS and name in LOOPS:
        with pytest.raises(ValueError, match='a trace of this model needs torch'):
            torch.jit.trace(backbone, images(*TRACED))
        return
    torch.jit.save(torch.jit.trace(backbone, images(*TRACED)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    odd = (3, 96, 48) if 'Swin' in name else (3, 37, 53)  # the host finds its padding by numbers of Python
    for size in (TRACED, (1, 64, 96), odd, (2, 128, 80)):
        x = images(*size)
        for ours, wanted in zip(loaded(x), backbone(x), strict=True):
            assert torch.equal(ours, wanted), size


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore:`torch.jit:DeprecationWarning')
@torch.no_grad()
def test_a_trace_at_the_size_of_the_learned_positions_serves_other_sizes():
    backbone = build(SMALL['ViT']).eval()
    traced = torch.jit.trace(backbone, images(1, 48, 48))
    for size in ((1, 48, 48), (2, 37, 53)):
        x = images(*size)
        assert all(torch.equal(ours, wanted) for ours, wanted in zip(traced(x), backbone(x), strict=True))


# mmdeploy and users' own scripts trace without no_grad.
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore:`torch.jit:DeprecationWarning')
def test_a_trace_that_was_made_with_gradients_has_the_maps_and_gradients_of_the_backbone(name):
    if not compat.OPERATORS and name in LOOPS:
        pytest.skip('refused on this torch, as the test before says')
    backbone = build(VARIANTS[name]).eval()
    traced = torch.jit.trace(backbone, images(*TRACED))
    x = images(*TRACED)
    results = outputs_and_gradients(traced, x)
    for ours, wanted in zip(results, outputs_and_gradients(backbone, x), strict=True):
        assert (ours - wanted).norm() <= 1e-5 * wanted.norm() + 1e-5


def test_gradients_of_torch_func_are_those_of_autograd(name):
    if not compat.OPERATORS and name == 'ViT with ATC':
        pytest.skip('scipy gets no numbers from torch.func on this torch')
    backbone, x = build(VARIANTS[name]).eval(), images(2, 48, 64)

    def scalar(x: Tensor) -> Tensor:
        return sum((m * torch.linspace(-1, 1, m.numel()).view_as(m)).sum() for m in backbone(x))

    gradient = torch.func.grad(scalar)(x)
    x.requires_grad_()
    apart = 1e-5 if 'DINOv3' in name else 0  # torch.func takes the gradient of SiLU apart, which rounds otherwise
    torch.testing.assert_close(gradient, torch.autograd.grad(scalar(x), x)[0], atol=apart, rtol=0)
