"""What merging keeps of a pretrained ViT: a linear head on frozen maps, tested with every method at equal costs.

    python tools/analysis_tools/probe_merging.py configs/mmseg/vit/vit_s_linear_imgfocus_camvid.py \
        --data camvid=data/camvid nuclei=data/nuclei --out probe.json

Heads learn without merging, one for each seed. A method is then given the setting whose multiply-adds are nearest to
each share of what the backbone needs without. Every row is written as it comes: a call that was stopped goes on where
it was. Times are taken last, all rows of a size by turns in one process.
"""

import argparse
import cProfile
import json
import pstats
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from probe_data import DATA, Sample
from timing import interleaved, summary, table
from torch import Tensor, nn

from mmsec.cli.config import load_config
from mmsec.cli.flops import count_kinds
from mmsec.cli.processor import optimize_on_cpu
from mmsec.engine.files import write_whole
from mmsec.engine.processes import run
from mmsec.errors import InputError

TOLERANCE = 0.02  # of the cost that is asked for
Grid = tuple[int, int]
Head = tuple[Tensor, Tensor]  # (classes, C, 1, 1) and (classes,), of a convolution


class Method(NamedTuple):
    """A way of merging with one option that sets its cost.

    Attributes:
        merging (dict): The rest of its options.
        option (str): Name of that option.
        values (Callable): To the rows and columns of a map its values, from the most costly to the least.
    """

    merging: dict
    option: str
    values: Callable[[Grid], Sequence]


def smaller_grids(grid: Grid) -> list[Grid]:
    """Grids of about the same shape, from the largest to the smallest."""
    height, width = grid
    found = {(h, min(max(round(h * width / height) + d, 1), width)) for h in range(height, 2, -1) for d in (-1, 0, 1)}
    return sorted(found, key=lambda each: -each[0] * each[1])


def shares(first: float, last: float) -> Callable[[Grid], list[float]]:
    """Two hundred steps of a ratio, whatever the map."""
    return lambda grid: [round(float(each), 4) for each in np.linspace(first, last, 201)]


def merging_blocks(grid: Grid) -> list[tuple[int, ...]]:
    """One, two and three of twelve blocks, from the last to the first: MPM has nothing else that sets its cost."""
    return [(*first, last) for first in ((), (2,), (2, 5)) for last in range(11, max(first, default=0), -1)]


METHODS = {
    'ToMe': Method(dict(type='ToMe'), 'r', lambda grid: range(grid[0] * grid[1] // 12 + 1)),
    'PiToMe': Method(dict(type='PiToMe'), 'ratio', shares(1.0, 0.8)),
    'ToMeSD': Method(dict(type='ToMeSD'), 'ratio', shares(0.0, 0.75)),
    'Expedit': Method(dict(type='Expedit', after_block=4), 'size', smaller_grids),
    'ALGM': Method(dict(type='ALGM'), 'threshold', shares(1.0, 0.0)),
    'MPM': Method(dict(type='MPM'), 'layers', merging_blocks),
    'CubistMerge': Method(dict(type='CubistMerge', after_block=4), 'r', shares(0.0, 0.5)),
    'AiluRus': Method(dict(type='AiluRus'), 'keep', shares(1.0, 0.05)),
    'ATC': Method(dict(type='ATC'), 'keep', shares(1.0, 0.2)),
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config with a mmsec.ViT whose init_cfg names a checkpoint')
    parser.add_argument('--data', nargs='+', required=True, metavar='NAME=DIR', help=f'names: {", ".join(DATA)}')
    parser.add_argument('--out', type=Path, required=True, metavar='JSON', help='file to write, and to go on with')
    parser.add_argument('--checkpoint', help='weights in the place of those that the config names')
    parser.add_argument(
        '--sizes', nargs='+', default=['252x336', '504x672'], metavar='HxW', help='of images, in pixels'
    )
    parser.add_argument('--costs', nargs='+', type=float, default=[0.85, 0.7, 0.55], metavar='SHARE')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS), help='default: all')
    parser.add_argument('--seeds', type=int, default=3, metavar='N', help='heads (default: %(default)s)')
    parser.add_argument('--steps', type=int, default=1000, metavar='N', help='of a head (default: %(default)s)')
    parser.add_argument('--repeats', type=int, default=15, metavar='N', help='rounds of timing (default: %(default)s)')
    parser.add_argument(
        '--images', type=int, metavar='N', help='of training and test each, evenly spaced; default: all'
    )
    args = parser.parse_args()
    for name in ('seeds', 'steps', 'repeats', 'images'):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f'--{name} must be at least 1, got {value}')
    if not all(0 < each < 1 for each in args.costs):
        parser.error(f'--costs must be in (0, 1), got {args.costs}')
    try:
        args.data = {name: Path(folder) for name, folder in (each.split('=', 1) for each in args.data)}
        args.sizes = [(int(h), int(w)) for h, w in (each.split('x') for each in args.sizes)]
    except ValueError:
        parser.error(f'--data takes NAME=DIR and --sizes HxW, got {args.data} and {args.sizes}')
    if unknown := set(args.data) - set(DATA):
        parser.error(f'--data knows {", ".join(DATA)}, got {", ".join(sorted(unknown))}')
    return args


class Probe:
    """The measurements of one set of images at one size; ``rows`` are those that are done, by name."""

    def __init__(self, args: argparse.Namespace, cfg: Any, data: str, size: Grid, rows: dict, save: Callable) -> None:
        self.args, self.cfg, self.size, self.rows, self.save = args, cfg, size, rows, save
        read, self.classes = DATA[data]
        self.train, self.test = (self.some(read(args.data[data], train), data) for train in (True, False))
        self.plain = self.backbone(None)
        self.patch = self.plain.patch_embed.patch_size
        if any(side % self.patch for side in size):
            raise InputError(f'--sizes must be multiples of {self.patch}, got {size[0]}x{size[1]}')

    def some(self, samples: list[Sample], data: str) -> list[Sample]:
        """As many of the images as are asked for."""
        if not samples:
            raise InputError(f"no images of {data} in '{self.args.data[data]}'")
        count = min(self.args.images or len(samples), len(samples))
        return [samples[i * len(samples) // count] for i in range(count)]

    def backbone(self, merging: dict | None) -> Any:
        """The frozen ViT with a merging."""
        config = dict(self.cfg.model.backbone, merging=merging, out_indices=None, frozen_stages=-1)
        backbone = MODELS.build(config)
        if merging is None:
            backbone.init_weights()
        else:
            backbone.load_state_dict(self.plain.state_dict())
        optimize_on_cpu(backbone)
        return backbone.eval().requires_grad_(False)

    def image(self, sample: Sample) -> Tensor:
        """(1, 3, H, W), as the config normalises it."""
        pixels = mmcv.imresize(mmcv.imread(sample.image, channel_order='rgb'), self.size[::-1])
        mean, std = (torch.tensor(self.cfg.model.data_preprocessor[name]).view(3, 1, 1) for name in ('mean', 'std'))
        return ((torch.from_numpy(pixels).permute(2, 0, 1) - mean) / std)[None]

    def maps(self, backbone: nn.Module, samples: Sequence[Sample]) -> Tensor:
        """(n, C, h, w) float16, one image after the other."""
        return torch.cat([backbone(self.image(each))[0].half() for each in samples])

    def heads(self) -> list[Head]:
        """A linear head for each seed, trained on the maps without merging."""
        maps, targets = self.maps(self.plain, self.train), []
        for sample in self.train:
            labels = torch.from_numpy(mmcv.imresize(sample.labels(), self.size[::-1], interpolation='nearest')).long()
            kinds = F.one_hot(labels.clamp_max(self.classes), self.classes + 1)[..., :-1].permute(2, 0, 1).float()
            targets.append(F.adaptive_avg_pool2d(kinds, maps.shape[2:]))
        return [fit(maps, torch.stack(targets), self.args.steps, seed) for seed in range(self.args.seeds)]

    def cost(self, backbone: nn.Module) -> float:
        """Multiply-adds of the backbone, the mean over four test images where they depend on the image."""
        counts: list[int] = []
        for sample in self.test[:: -(-len(self.test) // 4)]:
            counts.append(sum(count_kinds(backbone, partial(backbone, self.image(sample)))[''].values()))
            if counts[:-1] == counts[1:] != []:  # two images, one cost
                break
        return sum(counts) / len(counts)

    def setting(self, method: Method, cost: float) -> tuple[dict, float]:
        """The setting of a method that is nearest to a cost, and what it costs."""
        values = method.values((self.size[0] // self.patch, self.size[1] // self.patch))
        costs: dict[int, float] = {}

        def options(i: int) -> dict:
            return method.merging | {method.option: values[i]}

        low, high = 0, len(values) - 1  # the wanted one is between them
        while low <= high:
            middle = (low + high) // 2
            costs[middle] = self.cost(self.backbone(options(middle)))
            low, high = (middle + 1, high) if costs[middle] > cost else (low, middle - 1)
        best = min(costs, key=lambda i: abs(costs[i] - cost))
        return options(best), costs[best]

    def run(self) -> None:
        """Measure what is missing."""
        whole = self.cost(self.plain)
        missing = {
            (name, share): f'{name} at {share:g}'
            for share in self.args.costs
            for name in self.args.methods
            if f'{name} at {share:g}' not in self.rows
        }
        if missing or 'none' not in self.rows:
            heads, wanted = self.heads(), self.maps(self.plain, self.test)
            self.rows.setdefault('none', {'merging': None, 'multiply_adds': whole, **self.row(wanted, wanted, heads)})
            self.save()
            for (name, share), title in missing.items():
                merging, cost = self.setting(METHODS[name], share * whole)
                row = {'merging': merging, 'multiply_adds': cost, 'share': cost / whole}
                if abs(cost / whole - share) > TOLERANCE * share:
                    row['not_comparable'] = f'no setting of it costs {share:g} of the backbone'
                self.rows[title] = row | self.row(self.maps(self.backbone(merging), self.test), wanted, heads)
                self.save()
                print(title, json.dumps(self.rows[title]), flush=True)
        if any('seconds_median' not in row for row in self.rows.values()):
            image = self.image(self.test[0])
            runs = {name: partial(self.backbone(row['merging']), image) for name, row in self.rows.items()}
            for name, seconds in interleaved(runs, self.args.repeats).items():
                own = statistics.median(merging_share(runs[name]) for _ in range(5))
                self.rows[name] |= {**summary(seconds), 'merging_share': own}
            self.save()

    def row(self, maps: Tensor, wanted: Tensor, heads: Sequence[Head]) -> dict:
        """Metrics of maps: percent for each head, and the mean cosine of their tokens with those without merging."""
        matrices = [torch.zeros(self.classes, self.classes) for _ in heads]
        for features, sample in zip(maps, self.test, strict=True):
            labels = torch.from_numpy(sample.labels()).long()
            known = labels < self.classes
            for matrix, (weight, bias) in zip(matrices, heads, strict=True):
                logits = F.conv2d(features[None].float(), weight, bias)
                found = F.interpolate(logits, labels.shape, mode='bilinear', align_corners=False)[0].argmax(0)
                pairs = labels[known] * self.classes + found[known]
                matrix += torch.bincount(pairs, minlength=self.classes**2).view_as(matrix)
        hits = [matrix.diag() for matrix in matrices]
        unions = [matrix.sum(0) + matrix.sum(1) - hit for matrix, hit in zip(matrices, hits, strict=True)]
        cosines = [F.cosine_similarity(a.float(), b.float(), dim=0).mean() for a, b in zip(maps, wanted, strict=True)]
        return {
            'mIoU': [100 * (hit / union).nanmean().item() for hit, union in zip(hits, unions, strict=True)],
            'aAcc': [100 * (hit.sum() / matrix.sum()).item() for hit, matrix in zip(hits, matrices, strict=True)],
            'cosine': torch.stack(cosines).mean().item(),
        }


def markdown(results: Mapping[str, dict]) -> str:
    """A table for each set of images and size."""
    head = ['merging', 'cost', 'setting', 'mIoU of each head', 'difference', 'cosine', 'time', 'of it merging']
    pages = []
    for title, rows in results.items():
        none, lines = rows['none'], []
        for name, row in rows.items():
            loss = [a - b for a, b in zip(row['mIoU'], none['mIoU'], strict=True)]
            setting = ', '.join(f'{key}={value}' for key, value in (row['merging'] or {}).items() if key != 'type')
            timed = 'seconds_median' in row and 'seconds_median' in none
            time = f'{row["seconds_median"] / none["seconds_median"]:.2f}' if timed else 'not measured'
            share = f'{row["merging_share"]:.0%}' if 'merging_share' in row else 'not measured'
            cost = f'{row["multiply_adds"] / none["multiply_adds"]:.2f}' + ' *' * ('not_comparable' in row)
            metric = ' / '.join(f'{value:.1f}' for value in row['mIoU'])
            figures = [cost, setting, metric, f'{statistics.mean(loss):+.1f}', f'{row["cosine"]:.3f}', time, share]
            lines.append([name.split(' at ')[0], *figures])
        absolute = f', {none["seconds_median"]:.3f} s without merging' if 'seconds_median' in none else ''
        pages.append(f'{title}{absolute}:\n\n{table(head, lines)}')
    return '\n\n'.join(pages)


def merging_share(run: Callable[[], object]) -> float:
    """Share of the time of a call that finding, applying and undoing merges takes, by Python's profiler."""
    profile = cProfile.Profile()
    profile.runcall(run)
    stats = pstats.Stats(profile)
    inside = [callers for (file, *_), (*_, callers) in stats.stats.items() if '/mmsec/ops/merging/' in file]
    outermost = [times[3] for each in inside for (file, *_), times in each.items() if '/mmsec/models/' in file]
    return sum(outermost) / stats.total_tt


@torch.enable_grad()
def fit(maps: Tensor, targets: Tensor, steps: int, seed: int) -> Head:
    """Train a linear head on (n, C, h, w) maps towards the (n, classes, h, w) shares of each class in each patch."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.stack([each.float().mean((1, 2)) for each in maps]).mean(0)
    square = torch.stack([each.float().square().mean((1, 2)) for each in maps]).mean(0)
    std = (square - mean.square()).clamp_min(1e-6).sqrt()
    weight = (0.01 * torch.randn(targets.shape[1], maps.shape[1], generator=generator)).requires_grad_()
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=1e-2, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(maps), (8,), generator=generator)
        x = (maps[chosen].float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        logits = torch.einsum('nchw,kc->nkhw', x, weight) + bias.view(-1, 1, 1)
        loss = -(targets[chosen] * logits.log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    weight, bias = weight.detach() / std, bias.detach()
    return weight[..., None, None], bias - weight @ mean


def main() -> None:
    """Measure."""
    args = parse_args()
    cfg = load_config(args.config)
    backbone = cfg.model.backbone
    if args.checkpoint:
        backbone.init_cfg = dict(type='Pretrained', checkpoint=args.checkpoint)
    if backbone.type != 'mmsec.ViT' or 'checkpoint' not in (backbone.get('init_cfg') or {}):
        raise InputError(f"'{args.config}' has no mmsec.ViT with a checkpoint in init_cfg")
    setup = {name: getattr(args, name) for name in ('config', 'seeds', 'steps', 'images')}
    setup['checkpoint'] = backbone.init_cfg.checkpoint
    content: dict[str, Any] = {'setup': setup, 'results': {}}
    if args.out.is_file():
        content = json.loads(args.out.read_text())
        if content['setup'] != setup:
            raise InputError(f"'{args.out}' was measured with {content['setup']}, now {setup}: name another --out")

    def save() -> None:
        write_whole(args.out, (json.dumps(content, indent=1) + '\n').encode())

    results: Mapping[str, dict] = content['results']
    with torch.no_grad():
        for size in args.sizes:
            for data in args.data:
                rows = results.setdefault(f'{data} {size[0]}x{size[1]}', {})
                Probe(args, cfg, data, size, rows, save).run()
    print(markdown(results))


if __name__ == '__main__':
    run(main)
