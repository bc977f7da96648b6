"""What a CPU cannot show: kernels, graphs, mixed precision and memory on a GPU. `make test-gpu` runs it."""

import copy
from contextlib import nullcontext

import pytest
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmsec.models import SecViT
from mmsec.ops import Grouping, Tokens, cluster_attention, explain, use_kernels
from tests.conftest import SMALL_ARCH, build_grouping, each_grouping, semantic, tokens_of
from tests.gpu.conftest import skip_without_gpu
from tests.models.backbones.small import SMALL
from tools.analysis_tools import reference
from tools.analysis_tools.reference import published_forward
from tools.analysis_tools.timing import peak_on_gpu

skip_without_gpu()
CLUSTERINGS = [dict(num_clusters=(32, 8, 2, 1)), dict(cluster_size=98)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# A part of the name of the kernels on the device that each choice launches.
KERNELS = {'flash_attention': 'flash', 'efficient_attention': 'fmha', 'cudnn_attention': 'cudnn', 'math': ''}


@pytest.fixture
def full_float32():
    """Without TF32, which is a precision of its own."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def autocast(device: str, dtype: torch.dtype):
    return nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype)


def results(forward, model: nn.Module, images: Tensor) -> list[Tensor]:
    """Maps and the gradients of image and parameters, in float64."""
    # Channels last for all: the stem, which they share, rounds otherwise by another kernel.
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    maps = forward(images)
    weights = [torch.linspace(-1, 1, m.numel(), device=m.device, dtype=torch.float64).view_as(m) for m in maps]
    loss = sum((m * w).sum() for m, w in zip(maps, weights, strict=True)) / 100  # in the range of float16
    gradients = torch.autograd.grad(loss, [images, *model.parameters()], allow_unused=True)
    return [t.detach().double() for t in (*maps, *gradients) if t is not None]


def distance(ours: list[Tensor], truth: list[Tensor]) -> float:
    """Mean relative error of tensors."""
    errors = [(a - b).norm() / b.norm().clamp(min=1e-30) for a, b in zip(ours, truth, strict=True)]
    return torch.stack(errors).mean().item()


@pytest.mark.parametrize('clustering', CLUSTERINGS, ids=['published', 'clusters of 98'])
def test_backbone_equals_the_reference_in_float64(device, clustering):
    torch.manual_seed(0)
    model = SecViT('tiny', drop_path_rate=0.0, **clustering).double().eval().to(device)
    images = torch.randn(2, 3, 128, 160, device=device, dtype=torch.float64)
    truth = results(lambda x: published_forward(model, x), model, images)
    assert distance(results(model, model, images), truth) <= 1e-9


def any_order(k: Tensor) -> Tensor:
    """An order of the tokens that no rounding changes: (B, h, N)."""
    batch, num_tokens, heads, _ = k.shape
    order = torch.randperm(num_tokens, generator=torch.Generator().manual_seed(num_tokens))
    return order.to(k.device).expand(batch, heads, num_tokens).contiguous()


@pytest.fixture
def fixed_clusters(monkeypatch):
    """Clusters that do not depend on the keys: a token on a border would change over with the last bit of its score."""

    def grouping(self: nn.Module, tokens: Tokens, num_clusters: int) -> Grouping:
        return Grouping(any_order(tokens.key), num_clusters)

    monkeypatch.setattr('mmsec.ops.grouping.semantic.SemanticGrouping.forward', grouping)
    monkeypatch.setattr(reference, 'semantic_order', any_order)


@pytest.mark.usefixtures('full_float32', 'fixed_clusters', 'kernels')
@pytest.mark.parametrize('clustering', CLUSTERINGS, ids=['published', 'clusters of 98'])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_backbone_is_as_near_to_the_float64_reference_as_its_precision_allows(device, dtype, clustering):
    torch.manual_seed(0)
    model = SecViT('tiny', drop_path_rate=0.0, **clustering).eval().to(device)
    images = torch.randn(2, 3, 128, 160, device=device)
    exact = copy.deepcopy(model).double()
    truth = results(lambda x: published_forward(exact, x), exact, images.double())
    with autocast(device, dtype):
        plain = results(lambda x: published_forward(model, x), model, images)
        ours = results(model, model, images)
    # PyTorch's memory-efficient attention, which float32 has on CUDA, doubles the error of the gradients by itself: on
    # an H200 4.1e-7 with it, 1.9e-7 with plain products, and 2.0e-7 in the reference.
    allowed = 3 if dtype == torch.float32 else 2
    for part in (slice(0, 4), slice(4, None)):  # maps, gradients
        assert distance(ours[part], truth[part]) <= allowed * distance(plain[part], truth[part])


@pytest.mark.parametrize('name', SMALL)
def test_every_backbone_gives_what_it_gives_on_a_cpu(device, name):
    model = MODELS.build(SMALL[name].config()).double().eval()
    images = torch.randn(2, 3, 72, 104, dtype=torch.float64)
    truth = results(model, model, images)
    ours = results(model.to(device), model, images.to(device))
    assert distance([each.cpu() for each in ours], truth) <= 1e-9


@pytest.mark.usefixtures('kernels')
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('name', SMALL)
def test_every_backbone_takes_a_training_step_in_half_precision(device, name, dtype):
    model = MODELS.build(SMALL[name].config()).train().to(device)
    with autocast(device, dtype):
        found = results(model, model, torch.randn(2, 3, 72, 104, device=device))
    assert all(each.isfinite().all() for each in found)


def test_no_image_size_compiles_a_kernel_anew(cuda):
    import triton

    model, compiled = SecViT('tiny', drop_path_rate=0.0, cluster_size=98).to(cuda), []
    with use_kernels('on'), torch.autocast(cuda, torch.bfloat16):
        for size in ((2, 256, 320), (1, 128, 160)):  # one image, too
            sum(m.float().sum() for m in model(torch.randn(size[0], 3, *size[1:], device=cuda))).backward()
        before = triton.knobs.runtime.jit_cache_hook
        triton.knobs.runtime.jit_cache_hook = lambda **said: compiled.append(said['repr'])
        try:
            for size in ((2, 261, 333), (3, 160, 224), (1, 97, 130)):
                sum(m.float().sum() for m in model(torch.randn(size[0], 3, *size[1:], device=cuda))).backward()
        finally:
            triton.knobs.runtime.jit_cache_hook = before
    assert compiled == []


@each_grouping
def test_every_grouping_orders_tokens_as_on_a_cpu(device, grouping):
    method = build_grouping(grouping).eval()  # a random one draws anew in training
    tokens = tokens_of(torch.randn(2, 96, 3, 16, dtype=torch.float64), (8, 12))
    there = tokens_of(tokens.key.to(device), tokens.size)
    truth, ours = (method.to(each.key.device)(each, 8) for each in (tokens, there))
    for name, wanted in truth._asdict().items():
        found = getattr(ours, name)
        assert torch.equal(found.cpu(), wanted) if isinstance(wanted, Tensor) else found == wanted


@pytest.mark.parametrize('gradient', [False, True], ids=['inference', 'training'])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_the_kernel_that_runs_is_the_one_that_is_named(device, dtype, gradient):
    q, k, v = (torch.randn(2, 2100, 4, 32, device=device, dtype=dtype, requires_grad=gradient) for _ in range(3))
    grouping = semantic(k, 8)
    explained = explain(cluster_attention, q, k, v, grouping)['attention']
    # PyTorch's own kernel, inside plain torch or a kernel that asks it for another order; or products.
    chosen = [name for name, reason in explained.items() if reason == 'chosen'][-1].split(': ')[-1]
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == 'cuda' else [])]
    cluster_attention(q, k, v, grouping)
    with profile(activities=activities) as recorded:
        cluster_attention(q, k, v, grouping)
        if device == 'cuda':
            torch.cuda.synchronize()
    names = {event.name for event in recorded.events()}
    prefix = 'aten::_scaled_dot_product_'
    ran = {name.removeprefix(prefix) for name in names if name.startswith(prefix) and 'fused' not in name}
    if chosen == 'oneDNN products':
        assert ran == set()
        return
    assert len(ran) == 1, ran
    assert ran.pop().startswith('attention_math' if chosen == 'math' else chosen), explained
    if device == 'cuda':
        kernels = {event.name for event in recorded.events() if event.device_type.name == 'CUDA'}
        assert any(KERNELS[chosen] in name for name in kernels), kernels


@pytest.mark.usefixtures('kernels')
@pytest.mark.parametrize('clustering', CLUSTERINGS, ids=['published', 'clusters of 98'])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_inference_can_be_captured_as_a_graph(cuda, dtype, clustering):
    model = SecViT('tiny', **clustering).eval().to(cuda)
    images = torch.randn(1, 3, 256, 320, device=cuda)
    half = dtype != torch.float32
    low = torch.autocast(cuda, dtype, cache_enabled=False) if half else nullcontext()  # a cache would be captured
    with torch.no_grad(), low:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(images)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model(images)
        images.copy_(torch.randn_like(images))
        graph.replay()
        for ours, wanted in zip(captured, model(images), strict=True):
            assert torch.equal(ours, wanted)


@pytest.mark.skipif(torch.__version__ < '2.13', reason='Inductor of torch 2.11 cannot sort strides that are symbols')
@pytest.mark.parametrize('clustering', [dict(num_clusters=(32, 8)), dict(cluster_size=98)], ids=str)
def test_one_compilation_serves_several_image_sizes(device, clustering):
    torch._dynamo.reset()
    torch.manual_seed(0)
    arch = dict(embed_dims=(16, 32), depths=(1, 1), num_heads=(1, 2), mlp_ratio=1, layer_scale=(False, True))
    model = SecViT(arch, drop_path_rate=0.0, out_indices=(0, 1), **clustering).double().eval().to(device)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)

    def agree(height: int, width: int) -> None:
        images = torch.randn(2, 3, height, width, device=device, dtype=torch.float64)
        assert distance(results(compiled, model, images), results(model, model, images)) <= 1e-9

    agree(256, 320)
    with torch.compiler.set_stance('fail_on_recompile'):
        agree(288, 352)
        agree(250, 330)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_inference_takes_less_memory_than_the_reference_and_swin(cuda, dtype):
    from mmdet.models import SwinTransformer

    images = torch.randn(1, 3, 800, 1344, device=cuda)

    @torch.no_grad()
    def peak(forward) -> int:
        forward(images)
        return peak_on_gpu(lambda: forward(images))

    published = SecViT('small').eval().to(cuda)
    sized = SecViT('small', cluster_size=98).eval().to(cuda)
    swin = SwinTransformer().to(cuda)
    swin.eval()  # its own does not return it
    with autocast(cuda, dtype):
        assert peak(published) < peak(lambda x: published_forward(published, x))
        assert peak(sized) < peak(swin)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_equal_inputs_give_equal_bits_where_the_docs_promise_it(device, monkeypatch, dtype):
    """docs/performance.md, "What is deterministic": forward always, backward under ``deterministic=True``."""
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    model = SecViT(SMALL_ARCH, drop_path_rate=0.0, cluster_size=98).eval().to(device)
    images = torch.randn(2, 3, 256, 320, device=device)
    with autocast(device, dtype):
        for a, b in zip(model(images), model(images), strict=True):
            assert torch.equal(a, b)
        torch.use_deterministic_algorithms(True)
        try:
            first, second = results(model, model, images), results(model, model, images)
        finally:
            torch.use_deterministic_algorithms(False)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
