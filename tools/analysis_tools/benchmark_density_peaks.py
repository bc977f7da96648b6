"""Time ClusTR's density peaks beside their definition with the whole matrix of distances, by turns in one run."""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch
from benchmark_backbone import interleaved, machine
from torch import Tensor

from mmsec.engine.processes import run
from mmsec.models import ClusTR
from mmsec.ops.merging.density_peaks import NUM_NEIGHBORS, density_peak_merging


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--arch', choices=sorted(ClusTR.arch_zoo), default='b2', help='default: %(default)s')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), default=(224, 224), help='default: 224 224')
    parser.add_argument('--batch', type=int, default=1, help='images at a time (default: %(default)s)')
    parser.add_argument('--repeats', type=int, default=7, help='timed rounds (default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all figures to this file')
    args = parser.parse_args()
    for name in ('batch', 'repeats'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1, got {getattr(args, name)}')
    if min(args.shape) < 32:
        parser.error(f'--shape must be at least 32 32, got {args.shape[0]} {args.shape[1]}')
    return args


def whole_matrix(x: Tensor, num_clusters: tuple[int, ...]) -> list[Tensor]:
    """The definition of :func:`density_peak_merging`, step by step; ties are left as they fall.

    Args:
        x (Tensor): (B, H, W, C).
        num_clusters (tuple[int, ...]): Clusters of each scale.

    Returns:
        list[Tensor]: (B, N) int64 cluster of each token, for each scale.
    """
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


WAYS = {'in_blocks': density_peak_merging, 'whole_matrix': whole_matrix}


@torch.no_grad()
def measure(arch: str, shape: tuple[int, int], batch: int, repeats: int) -> dict:
    """Seconds of both ways on random tokens of each stage that clusters and of all blocks, and how far they agree."""
    torch.manual_seed(0)
    settings = ClusTR.arch_zoo[arch]
    rows = []
    for stage, (dims, ratio) in enumerate(zip(settings['embed_dims'], settings['sr_ratios'], strict=True)):
        if ratio == 1:  # attention to all tokens
            continue
        height, width = (-(-side // (4 << stage)) for side in shape)
        coarse = max(1, height * width // ratio**2)
        counts = (coarse, min(4 * coarse, height * width))
        x = torch.randn(batch, height, width, dims)
        ours = [merging.assignment for merging in density_peak_merging(x, counts)]
        theirs = whole_matrix(x, counts)
        same = torch.stack(ours) == torch.stack(theirs)
        sides = {name: partial(way, x, counts) for name, way in WAYS.items()}
        seconds = {name: statistics.median(times) for name, times in interleaved(sides, repeats).items()}
        rows.append(
            {
                'stage': stage + 1,
                'tokens': height * width,
                'channels': dims,
                'blocks': settings['depths'][stage],
                'in_blocks_seconds': seconds['in_blocks'],
                'whole_matrix_seconds': seconds['whole_matrix'],
                'ratio': seconds['in_blocks'] / seconds['whole_matrix'],
                'agreement': same.double().mean().item(),
            }
        )
    seconds = {f'{name}_seconds': sum(row['blocks'] * row[f'{name}_seconds'] for row in rows) for name in WAYS}
    ratio = seconds['in_blocks_seconds'] / seconds['whole_matrix_seconds']
    return {'stages': rows, 'all_blocks': seconds | {'ratio': ratio}}


def times(row: dict) -> list[str]:
    """Milliseconds of both ways and their ratio, as text."""
    return [f'{row[f"{name}_seconds"] * 1e3:.2f}' for name in WAYS] + [f'{row["ratio"]:.2f}']


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    found = measure(args.arch, tuple(args.shape), args.batch, args.repeats)
    print(f'ClusTR-{args.arch}, {args.batch}x3x{args.shape[0]}x{args.shape[1]}')
    print(
        '| stage | tokens | channels | blocks | in blocks, ms | whole matrix, ms | ratio | tokens in the same cluster |'
    )
    print('|---|---|---|---|---|---|---|---|')
    for row in found['stages']:
        cells = [row['stage'], row['tokens'], row['channels'], row['blocks'], *times(row), f'{row["agreement"]:.4f}']
        print(f'| {" | ".join(map(str, cells))} |')
    print(f'| {" | ".join(["all blocks", "", "", "", *times(found["all_blocks"]), ""])} |')
    if args.json:
        settings = {name: getattr(args, name) for name in ('arch', 'shape', 'batch', 'repeats')}
        args.json.write_text(json.dumps({'machine': machine(), 'settings': settings, **found}, indent=2) + '\n')


if __name__ == '__main__':
    run(main)
