"""Time each way of grouping tokens beside the published one, alone and in the whole backbone, in one run."""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from benchmark_backbone import Side, compare, interleaved, machine, secvit

from mmsec.cli.grouping import add_grouping, grouping_of
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.models import SecViT
from mmsec.ops import Tokens
from mmsec.ops.grouping import GROUPINGS

PUBLISHED = dict(type='SemanticGrouping')
CLUSTERS = {'published': 'published counts', 'size': 'clusters of 98'}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_grouping(parser, 'append')
    parser.add_argument('--arch', choices=sorted(SecViT.arch_zoo), default='tiny', help='default: %(default)s')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), default=(800, 1344), help='default: 800 1344')
    parser.add_argument('--batch', type=int, default=1, help='images at a time (default: %(default)s)')
    parser.add_argument('--mode', choices=('infer', 'train'), default='infer', help='train: forward and backward')
    parser.add_argument('--alone', action='store_true', help='leave the whole backbone out')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='default: %(default)s')
    parser.add_argument('--repeats', type=int, default=7, help='timed rounds (default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all figures to this file')
    args = parser.parse_args()
    for name in ('batch', 'repeats'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1, got {getattr(args, name)}')
    if min(args.shape) < 32:
        parser.error(f'--shape must be at least 32 32, got {args.shape[0]} {args.shape[1]}')
    return args


def name_of(grouping: dict) -> str:
    """A grouping as the command line gives it."""
    return ' '.join([grouping['type'], *(f'{key}={value}' for key, value in grouping.items() if key != 'type')])


def grouping_alone(side: Side) -> Callable[[], None]:
    """A function that groups random tokens as all blocks of a backbone do in one pass, and waits for the device."""
    backbone = secvit(side).to(side.device).train(side.mode == 'train')
    calls = []
    for stage, stride in zip(backbone.stages, backbone.strides, strict=True):
        height, width = (-(-length // stride) for length in side.shape)
        heads = (stage.blocks[0].attn.num_heads, stage.head_dim)
        qkv = torch.randn(side.batch, height * width, 3, *heads, device=side.device)
        tokens = Tokens(qkv, torch.randn(side.batch, height * width, *heads, device=side.device), (height, width))
        for i, block in enumerate(stage.blocks):
            num_clusters = stage.clusters_for(height * width, i)
            if num_clusters > 1:
                calls.append((block.attn.grouping, tokens, num_clusters))

    @torch.no_grad()
    def group() -> None:
        for grouping, tokens, num_clusters in calls:
            grouping(tokens, num_clusters)
        if torch.device(side.device).type == 'cuda':
            torch.cuda.synchronize()

    return group


def measure(sides: dict[str, Side], repeats: int, alone: bool) -> dict[str, dict]:
    """Seconds of each grouping, and of each backbone with its peak memory; ratios to the first."""
    first = next(iter(sides))
    torch.manual_seed(0)
    seconds = interleaved({name: grouping_alone(side) for name, side in sides.items()}, repeats)
    rows: dict[str, dict] = {}
    for name, times in seconds.items():
        rows[name] = {
            'seconds_median': statistics.median(times),
            'seconds_min': min(times),
            'seconds_max': max(times),
            'ratio': statistics.median(times) / statistics.median(seconds[first]),
        }
    if alone:
        return rows
    rivals = {name: side for name, side in sides.items() if name != first}
    whole = compare(sides[first], rivals, repeats)
    whole[first] = whole.pop('secvit')
    for name, row in rows.items():
        row['backbone'] = {key: value for key, value in whole[name].items() if key != 'settings'}
        row['backbone']['ratio'] = whole[name]['seconds_median'] / whole[first]['seconds_median']
    return rows


def table(results: dict[str, dict[str, dict]]) -> str:
    """Markdown: a line for each number of clusters and grouping."""
    lines = [
        '| clusters | grouping | alone, ms | times the published | backbone, ms | times the published |',
        '|---|---|---|---|---|---|',
    ]
    for clusters, rows in results.items():
        for name, row in rows.items():
            cells = [CLUSTERS[clusters], name, f'{row["seconds_median"] * 1e3:.1f}', f'{row["ratio"]:.2f}']
            whole = row.get('backbone')
            cells += [f'{whole["seconds_median"] * 1e3:.0f}', f'{whole["ratio"]:.2f}'] if whole else ['-', '-']
            lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    given = [grouping_of(words) for words in args.grouping or [[name] for name in sorted(GROUPINGS)]]
    groupings = {name_of(grouping): grouping for grouping in (PUBLISHED, *given)}
    if len(groupings) < 2:
        raise InputError(f'--grouping: name at least one besides {name_of(PUBLISHED)}, which all are compared with')
    results = {}
    for clusters in CLUSTERS:
        sides = {
            name: Side(
                'secvit',
                args.arch,
                tuple(args.shape),
                args.batch,
                clusters,
                args.mode,
                'float32',
                False,
                args.device,
                grouping,
            )
            for name, grouping in groupings.items()
        }
        results[clusters] = measure(sides, args.repeats, args.alone)
    settings = {name: getattr(args, name) for name in ('arch', 'shape', 'batch', 'mode', 'device', 'repeats')}
    where = machine()
    print(', '.join(f'{key} {value}' for key, value in (settings | where).items()))
    print(table(results))
    if args.json:
        content = {'machine': where, 'settings': settings, 'groupings': results}
        args.json.write_text(json.dumps(content, indent=2) + '\n')


if __name__ == '__main__':
    run(main)
