"""SecViT and the baselines that it is timed beside: the published computation, Swin-T, and itself otherwise."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from reference import published_forward
from swin import swin_transformer
from timing import synchronised
from torch import Tensor, nn

from mmsec.models import SecViT
from mmsec.ops.kernels import cpu

DTYPES = {'float32': torch.float32, 'tf32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
# What differs from the side that is compared.
BASELINES: dict[str, tuple[str, dict]] = {
    'reference': ('the published computation, step by step, with the same weights', dict(model='reference')),
    'swin_t': ("mmdetection's Swin-T", dict(model='swin_t')),
    'eager': ('itself, not compiled', dict(compile=False)),
    'plain': ('itself without what mmsec.ops.kernels.cpu.optimize does', dict(model='plain')),
    'float32': ('itself in float32', dict(dtype='float32')),
    'quarter': ('itself on an image of half the height and width, a quarter of the tokens', {}),
    'published': ('itself with the published cluster counts', dict(clusters='published')),
    'semantic': (
        'itself with the published grouping, whatever --grouping says',
        dict(grouping=dict(type='SemanticGrouping')),
    ),
}


class Side(NamedTuple):
    """One of the things compared.

    ``model`` is 'secvit', 'plain', 'reference' or 'swin_t'; ``clusters`` 'published' or 'size', which is 98 tokens in
    each; ``mode`` 'infer', 'train' (forward and backward) or 'graph' (inference, captured as a CUDA graph).
    """

    model: str
    arch: str | dict
    shape: tuple[int, int]
    batch: int
    clusters: str
    mode: str
    dtype: str
    compile: bool
    device: str
    grouping: dict = dict(type='SemanticGrouping')  # never mutated

    def against(self, baseline: str) -> 'Side':
        """What it is compared with under one of :data:`BASELINES`."""
        if baseline == 'quarter':
            return self._replace(shape=(self.shape[0] // 2, self.shape[1] // 2))
        return self._replace(**BASELINES[baseline][1])


def secvit(side: Side) -> SecViT:
    """The backbone of a side."""
    clusters = dict(cluster_size=98) if side.clusters == 'size' else {}
    return SecViT(side.arch, drop_path_rate=0.0, grouping=side.grouping, **clusters)


def forward_of(side: Side, backend: str = 'inductor') -> tuple[nn.Module, Callable[[Tensor], Sequence[Tensor]], Tensor]:
    """The model of a side on its device, the function of images that is timed, and such images."""
    torch.manual_seed(0)
    model = swin_transformer()(drop_path_rate=0.0) if side.model == 'swin_t' else secvit(side)
    model.to(side.device).train(side.mode == 'train')
    images = torch.randn(side.batch, 3, *side.shape, device=side.device)
    forward = model
    if side.model == 'secvit' and side.device == 'cpu' and not side.compile:
        cpu.optimize(model)
    if side.model == 'reference':
        forward = lambda x: published_forward(model, x)  # noqa: E731
    if side.compile:
        forward = torch.compile(forward, dynamic=False, backend=backend)
    return model, forward, images


def precision(dtype: str, device: str, cache_enabled: bool = True) -> AbstractContextManager:
    """The context of a forward pass in ``dtype``, one of :data:`DTYPES`; sets TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == 'tf32'
    if DTYPES[dtype] == torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, DTYPES[dtype], cache_enabled=cache_enabled)


def step_of(side: Side, backend: str = 'inductor') -> tuple[Callable[[Tensor], None], Tensor]:
    """A function of images that runs the model of a side, which is made beforehand, once; and such images."""
    model, forward, images = forward_of(side, backend)
    autocast = precision(side.dtype, side.device)

    def step(images: Tensor) -> None:
        with torch.set_grad_enabled(side.mode == 'train'):
            with autocast:
                maps = forward(images)
            if side.mode == 'train':
                model.zero_grad(set_to_none=True)
                sum(m.float().mean() for m in maps).backward()

    return step, images


def prepare(side: Side, backend: str = 'inductor') -> Callable[[], None]:
    """A function that runs a side once, its model and images made beforehand, and waits for the device."""
    if side.mode == 'graph':
        return captured(side)
    return synchronised(partial(*step_of(side, backend)), side.device)


def captured(side: Side) -> Callable[[], None]:
    """A function that replays the inference of a side, captured as a CUDA graph: no kernel is launched by Python."""
    _, forward, images = forward_of(side)
    with torch.no_grad(), precision(side.dtype, side.device, cache_enabled=False):  # a cache would be captured
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                forward(images)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            maps = forward(images)
    held = forward, images, maps  # whose memory the graph reads and writes

    def replay(graph=graph, held=held) -> None:
        graph.replay()

    return synchronised(replay, side.device)
