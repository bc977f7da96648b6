"""Subcommands of benchmark.py that time parts of models, whole detectors, and exported models."""

import argparse
import copy
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import torch
from baselines import precision
from timing import Worker, apart, compared, interleaved, rounds, summary, synchronised, table
from torch import Tensor

from mmsec.cli import openmp
from mmsec.cli.config import load_config
from mmsec.models import ClusTR
from mmsec.models.inspection import image_channels
from mmsec.ops.merging.density_peaks import NUM_NEIGHBORS, density_peak_merging

ROOT = Path(__file__).parents[2]
DETECTORS = {'published counts': {}, 'clusters of 98': dict(cluster_size=98), 'Swin-T': None}
OPTIMIZERS = {
    'a group for each parameter': ('DefaultOptimWrapperConstructor', False),
    'a group for each parameter, fused': ('DefaultOptimWrapperConstructor', True),
    'merged': ('mmsec.MergedOptimWrapperConstructor', False),
    'merged, fused': ('mmsec.MergedOptimWrapperConstructor', True),
}
WAITING = {  # for OpenMP
    'its defaults': {},
    'passive': {'OMP_WAIT_POLICY': 'PASSIVE'},
    'one thread': {'OMP_NUM_THREADS': '1'},
    **{f'a spin of {turns}': {'GOMP_SPINCOUNT': str(turns)} for turns in (300, 3_000, 10_000)},
}
ONNX = ('onnxruntime', 'eager', 'compiled')


def settings(args: argparse.Namespace, *names: str) -> dict:
    """These options of the command line, for another process."""
    return {name: getattr(args, name) for name in names}


def whole_matrix(x: Tensor, num_clusters: tuple[int, ...]) -> list[Tensor]:
    """The definition of :func:`density_peak_merging`, step by step: (B, H, W, C) -> (B, N) clusters of each scale."""
    x = x.flatten(1, 2)  # (B, N, C)
    distances = torch.cdist(x, x) / x.shape[-1] ** 0.5  # (B, N, N)
    nearest = distances.topk(min(NUM_NEIGHBORS, x.shape[1]), largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()  # (B, N)
    is_denser = density[:, None] > density[..., None]  # (B, N, N)
    largest = distances.flatten(1).amax(dim=1)[:, None, None]
    separation = torch.where(is_denser, distances, largest).amin(dim=-1)  # (B, N)
    order = (density * separation).argsort(dim=-1, descending=True)
    clusters = []
    for count in num_clusters:
        centers = order[:, :count]  # (B, K)
        nearest_center = distances.gather(1, centers[..., None].expand(-1, -1, x.shape[1])).argmin(dim=1)  # (B, N)
        own = torch.arange(count, device=x.device).expand(x.shape[0], -1)
        clusters.append(nearest_center.scatter(1, centers, own))
    return clusters


@torch.no_grad()
def density_peaks(args: argparse.Namespace) -> dict:
    """Time ClusTR's density peaks beside their definition with the whole matrix of distances, on random tokens."""
    torch.manual_seed(0)
    arch = ClusTR.arch_zoo[args.arch]
    ways = {'in_blocks': density_peak_merging, 'whole_matrix': whole_matrix}
    rows, total = [], dict.fromkeys(ways, 0.0)
    for stage, (dims, ratio) in enumerate(zip(arch['embed_dims'], arch['sr_ratios'], strict=True)):
        if ratio == 1:  # attention to all tokens
            continue
        height, width = (-(-side // (4 << stage)) for side in args.shape)
        coarse = max(1, height * width // ratio**2)
        counts = (coarse, min(4 * coarse, height * width))
        x = torch.randn(args.batch, height, width, dims)
        ours = torch.stack([merging.assignment for merging in density_peak_merging(x, counts)])
        found = interleaved({name: partial(way, x, counts) for name, way in ways.items()}, args.repeats)
        seconds = {name: summary(each)['seconds_median'] for name, each in found.items()}
        rows.append(
            {'stage': stage + 1, 'tokens': height * width, 'channels': dims, 'blocks': arch['depths'][stage]}
            | {f'{name}_seconds': each for name, each in seconds.items()}
            | {'ratio': seconds['in_blocks'] / seconds['whole_matrix']}
            | {'agreement': (ours == torch.stack(whole_matrix(x, counts))).double().mean().item()}
        )
        total = {name: each + arch['depths'][stage] * seconds[name] for name, each in total.items()}
    every = {f'{name}_seconds': each for name, each in total.items()}
    every['ratio'] = total['in_blocks'] / total['whole_matrix']
    head = ['stage', 'tokens', 'channels', 'blocks', *(f'{name.replace("_", " ")}, ms' for name in ways), 'ratio']
    lines = [
        [*(row.get(key, '') for key in ('stage', 'tokens', 'channels', 'blocks')),
         *(f'{row[f"{name}_seconds"] * 1e3:.2f}' for name in ways), f'{row["ratio"]:.2f}', row.get('agreement', '')]
        for row in (*rows, every | {'stage': 'all blocks'})
    ]  # fmt: skip
    print(table([*head, 'tokens in the same cluster'], lines))
    return {'stages': rows, 'all_blocks': every}


def _detector(arch: str, options: dict | None, device: str, data: str = '') -> tuple:
    """The Mask R-CNN config of a SecViT with options, or with Swin-T in its place (None), and its model."""
    from mmengine.registry import MODELS

    cfg = load_config(str(ROOT / f'configs/mmdet/secvit_{arch[0]}_maskrcnn{data}.py'))
    if options is None:
        cfg.model.backbone = dict(type='mmdet.SwinTransformer')  # its defaults are Swin-T
        cfg.model.neck.in_channels = [96, 192, 384, 768]
    else:
        cfg.model.backbone.update(init_cfg=None, **options)
    torch.manual_seed(0)
    return cfg, MODELS.build(cfg.model).to(device).train()


def prepare_detector(task: tuple[dict | None, dict]) -> Callable[[], None]:
    """A function that lets Mask R-CNN predict, or train for a step."""
    from mmdet.testing import demo_mm_inputs
    from mmengine.optim import build_optim_wrapper

    from mmsec.engine.optimizers.bfloat16 import BFloat16OptimWrapper

    options, given = task
    device, batch, dtype = given['device'], given['batch'], given['dtype']
    cfg, model = _detector(given['arch'], options, device, given.get('data', ''))
    classes = model.roi_head.bbox_head.num_classes
    data = demo_mm_inputs(
        batch, [[3, *given['shape']]] * batch, num_items=[8] * batch, num_classes=classes, with_mask=True
    )  # fmt: skip
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    scaler = torch.amp.GradScaler(device, enabled=dtype == 'float16')
    bfloat16 = BFloat16OptimWrapper(optimizer=wrapper.optimizer)

    def context() -> AbstractContextManager:
        plain = precision(dtype, device)  # sets TF32, too
        return bfloat16.optim_context(model) if dtype == 'bfloat16' else plain

    def step() -> None:
        with context():  # as mmsec.BFloat16OptimWrapper and MMEngine's AmpOptimWrapper do
            loss, _ = model.parse_losses(model(**model.data_preprocessor(copy.deepcopy(data), True), mode='loss'))
        scaler.scale(loss).backward()
        scaler.step(wrapper.optimizer)
        scaler.update()
        wrapper.optimizer.zero_grad()

    def predict() -> None:
        with torch.no_grad(), context():
            model.test_step(copy.deepcopy(data))

    model.train(given['mode'] == 'train')
    return synchronised(step if given['mode'] == 'train' else predict, device)


def detector(args: argparse.Namespace) -> dict:
    """Time Mask R-CNN with a SecViT beside one with Swin-T, from random weights, in prediction or a training step."""
    given = settings(args, 'arch', 'shape', 'batch', 'mode', 'dtype', 'device')
    tasks = {name: (options, given) for name, options in DETECTORS.items()}
    return {'rows': compared(apart(prepare_detector, tasks, args.repeats))}


def threads(args: argparse.Namespace) -> dict:
    """Time a step of the demo's detector under settings of OpenMP, on quiet cores and beside busy processes."""
    given = dict(arch='tiny', shape=tuple(args.shape), batch=args.batch, mode='train', dtype='float32', device='cpu')
    given['data'] = '_shapes'
    whole = dict(os.environ)
    before = {name: value for name, value in whole.items() if not name.startswith(('OMP_', 'GOMP_'))}
    sides = {'of the tools': openmp.settings(before), **WAITING}
    found: dict[str, Worker] = {}
    rows: dict[str, dict] = {}
    try:
        for name, variables in sides.items():
            os.environ.clear()
            os.environ.update(before | variables)  # which the process starts with
            found[name] = Worker(prepare_detector, ({}, given))
        for count in args.busy:
            with ExitStack() as stack:
                for _ in range(count):
                    busy = subprocess.Popen([sys.executable, '-c', 'while True: pass'])
                    stack.callback(busy.kill)
                seconds = rounds({name: worker.turn for name, worker in found.items()}, args.repeats)
            print(f'beside {count} busy processes:')
            rows[str(count)] = compared({name: summary(each) for name, each in seconds.items()})
    finally:
        for worker in found.values():
            worker.end()
        os.environ.clear()
        os.environ.update(whole)
    return {'variables': sides, 'rows': rows}


def prepare_optimizer(task: tuple[str, str, str, bool]) -> Callable[[], None]:
    """A function that lets the optimizer of Mask R-CNN take a step."""
    from mmengine.optim import build_optim_wrapper

    arch, device, constructor, fused = task
    cfg, model = _detector(arch, {}, device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    cfg.optim_wrapper.constructor, cfg.optim_wrapper.optimizer.fused = constructor, fused
    return synchronised(build_optim_wrapper(model, cfg.optim_wrapper).optimizer.step, device)


def optimizer(args: argparse.Namespace) -> dict:
    """Time the optimizer's step of Mask R-CNN, with groups of parameters as MMEngine and as mmsec make them."""
    tasks = {name: (args.arch, args.device, *each) for name, each in OPTIMIZERS.items()}
    return {'rows': compared(apart(prepare_optimizer, tasks, args.repeats))}


@torch.no_grad()
def prepare_onnx(task: tuple[str, dict]) -> Callable[[], object]:
    """A function that runs one of :data:`ONNX` once."""
    from mmsec.cli.deployment import deployable
    from mmsec.export import export, session

    side, given = task
    torch.manual_seed(0)
    torch.set_num_threads(given['threads'])
    model, names = deployable(load_config(given['config']), None, given['backbone'])
    images = torch.randn(1, image_channels(model), *given['shape'])
    if side == 'onnxruntime':
        ready = session(export(model, images, names).content, given['threads'])
        return lambda: ready.run(None, {'images': images.numpy()})
    return torch.no_grad()(partial(torch.compile(model, dynamic=False) if side == 'compiled' else model, images))


def onnx(args: argparse.Namespace) -> dict:
    """Time onnxruntime beside torch, eager and compiled, on the CPU."""
    from mmsec.export import require_packages

    require_packages()
    given = settings(args, 'config', 'shape', 'backbone', 'threads')
    tasks = {side: (side, given) for side in (ONNX[0], *args.against)}
    return {'rows': compared(apart(prepare_onnx, tasks, args.repeats))}
