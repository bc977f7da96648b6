"""Measure on a data set with masks how well clusters agree with what is annotated, against windows and chance."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == '__main__':  # before torch loads OpenMP
    from mmsec.cli.openmp import choose_threads

    choose_threads()

import mmcv
import numpy as np
import torch
from mmengine.config import DictAction
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import DATASETS
from mmengine.utils import track_iter_progress
from torch.utils.data import Dataset

from mmsec.cli.config import load_config
from mmsec.cli.data import check_paths
from mmsec.cli.grouping import add_grouping, set_grouping
from mmsec.cli.weights import build_backbone
from mmsec.engine.files import to_json
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.evaluation.clusters import (
    BASELINES,
    MEASURES,
    TokenLabels,
    agreement,
    compactness,
    token_labels,
    tokens_inside,
)
from mmsec.models.backbones.base import Backbone
from mmsec.models.inspection import attention_layer, scales_of, token_clusters
from mmsec.ops import cluster_ids
from mmsec.ops.grouping import Grouping, GroupingMethod
from mmsec.ops.grouping.kmeans import largest_over_mean
from mmsec.ops.grouping.window import window_order
from mmsec.registry import MODELS
from mmsec.visualization.analysis import analysis_figure
from mmsec.visualization.drawing import as_seen


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config with a backbone of mmsec and masks in its test data')
    parser.add_argument('checkpoint', nargs='?', help='published or trained weights (default: random ones)')
    parser.add_argument('--images', type=int, default=200, metavar='N', help='spread evenly (default: %(default)s)')
    add_grouping(parser)
    parser.add_argument('--out', type=Path, metavar='DIR', help='default: work_dirs/<config name>/clusters')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: a GPU if there is one)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    args = parser.parse_args()
    if args.images < 1:
        parser.error(f'--images must be at least 1, got {args.images}')
    args.out = args.out or Path('work_dirs') / Path(args.config).stem / 'clusters'
    args.device = args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    return args


def watch_keys(backbone: Backbone) -> dict[int, torch.Tensor]:
    """The keys that the last block of each stage groups, (B, N, heads, d): a dict that every pass of images fills."""
    keys: dict[int, torch.Tensor] = {}
    for stage in range(len(backbone.attention_layers())):
        for module in attention_layer(backbone, stage).modules():
            if isinstance(module, GroupingMethod):
                module.register_forward_pre_hook(lambda _, inputs, stage=stage: keys.update({stage: inputs[0].key}))
    return keys


def groupings(ids: np.ndarray, rng: np.random.Generator, scale: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Clusters of each head or of one scale, (H', W'), and the baselines, of as many clusters of equal size."""
    for head, clusters in enumerate(ids, start=1):
        yield scale or f'head {head}', clusters
    height, width = ids.shape[1:]
    count = int(ids.max()) + 1
    orders = window_order(height, width, count), torch.from_numpy(rng.permutation(height * width))
    for name, order in zip(BASELINES, orders, strict=True):
        grouping = Grouping(order[None, None], count)
        yield name, cluster_ids(grouping).view(height, width).numpy()


def measure(
    clusters: np.ndarray, labels: TokenLabels, inside: tuple[int, int], rng: np.random.Generator
) -> dict[str, float | None]:
    """All measures of one grouping of one image."""
    result: dict[str, float | None] = dict.fromkeys(MEASURES)
    for kind, wanted in zip(('classes', 'instances'), labels, strict=True):
        found = agreement(wanted, clusters.ravel(), rng) if wanted is not None else None
        result[f'ami_{kind}'], result[f'purity_{kind}'] = found or (None, None)
    return result | {'compactness': compactness(clusters[: inside[0], : inside[1]])}


def analyze(
    preprocessor: BaseDataPreprocessor, backbone: Backbone, dataset: Dataset, args: argparse.Namespace
) -> tuple[list[dict], list[dict], int]:
    """Means over images for each stage, scale and grouping; how unequal plain k-means would be; failed images."""
    backbone.to(args.device)
    rng = np.random.default_rng(0)
    stages = range(len(backbone.attention_layers()))
    num_classes = len(dataset.metainfo['classes'])
    scales = {stage: scales_of(backbone, stage) or (None,) for stage in stages}  # None: heads with own clusters
    seen: dict[tuple[int, str | None, str], list[dict]] = {}
    counts: dict[tuple[int, str | None], set[int]] = {
        (stage, each): set() for stage in stages for each in scales[stage]
    }
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(args.images, len(dataset))).round().astype(int))
    keys = watch_keys(backbone)
    unequal: dict[int, list[float]] = {}
    failed = 0
    for index in track_iter_progress(chosen.tolist()):
        try:
            sample = dataset[index]
        except Exception as error:  # whatever a decoder throws; the others are measured
            path = dataset.get_data_info(index)['img_path']
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            print(f"\nerror: '{path}' cannot be loaded: {reason}", file=sys.stderr)
            failed += 1
            continue
        image, batch = as_seen(preprocessor, sample)
        for stage, found in enumerate(token_clusters(backbone, batch, stages)):
            ids = found.ids[0].cpu().numpy()  # (heads, H', W')
            stride = backbone.stage_strides[stage]
            labels = token_labels(sample['data_samples'], image.shape[:2], ids.shape[1:], stride, num_classes)
            if labels is None:
                raise InputError(
                    f"the test data of '{args.config}' has no masks to compare clusters with; "
                    'its test pipeline needs LoadAnnotations, for a detector with_mask=True'
                )
            inside = tokens_inside(image.shape[:2], ids.shape[1:], stride)
            if stage in keys and ids.max():
                ratio = largest_over_mean(keys[stage], int(ids.max()) + 1)
                unequal.setdefault(stage, []).extend(ratio.flatten().tolist())
            for scale, clustered in zip(scales[stage], np.split(ids, len(scales[stage])), strict=True):
                counts[stage, scale].add(int(clustered.max()) + 1)
                for name, clusters in groupings(clustered, rng, scale) if clustered.max() else ():
                    seen.setdefault((stage, scale, name), []).append(measure(clusters, labels, inside, rng))
    print()
    for (stage, scale), found in counts.items():
        if found and max(found) == 1:
            print(f'stage {stage + 1}{f", {scale}" if scale else ""}: one cluster, nothing to compare')
    rows = []
    for (stage, scale, name), values in seen.items():
        means = {key: [value[key] for value in values if value[key] is not None] for key in MEASURES}
        clusters = sorted(counts[stage, scale] - {1})
        row = {'stage': stage + 1, 'clusters': [clusters[0], clusters[-1]], 'grouping': name}
        row |= {'scale': scale} if scale else {}
        row['images'] = {key: len(value) for key, value in means.items()}  # that have two labels
        rows.append(row | {key: float(np.mean(value)) if value else None for key, value in means.items()})
    kmeans = [
        {'stage': stage + 1, 'mean': float(np.mean(ratios)), 'max': max(ratios)} for stage, ratios in unequal.items()
    ]
    return rows, kmeans, failed


def print_table(rows: list[dict]) -> None:
    """A line for each stage, scale and grouping."""
    shown = [key for key in MEASURES if any(row[key] is not None for row in rows)]
    print(f'{"stage":<6}{"clusters":<10}{"grouping":<14}' + ''.join(f'{MEASURES[key]:>21}' for key in shown))
    for row in rows:
        clusters = '-'.join(map(str, sorted(set(row['clusters']))))
        values = ''.join(
            f'{round(row[key], 3) + 0.0:>21.3f}' if row[key] is not None else f'{"-":>21}' for key in shown
        )
        print(f'{row["stage"]:<6}{clusters:<10}{row["grouping"]:<14}{values}')


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    set_grouping(cfg, args.grouping)
    torch.manual_seed(0)
    backbone = build_backbone(cfg, args.checkpoint)
    if not args.checkpoint:
        print('no checkpoint: weights are random')
    check_paths(cfg, 'test')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    preprocessor = MODELS.build(cfg.model.data_preprocessor).to(args.device)
    rows, kmeans, failed = analyze(preprocessor, backbone, dataset, args)
    if not rows:
        raise InputError(f"'{args.config}': no image with clusters to compare")
    print_table(rows)
    for row in kmeans:
        print(
            f'stage {row["stage"]}: the largest cluster of plain k-means on the same keys has {row["mean"]:.2f} times '
            f'the mean size (mean of heads and images; at most {row["max"]:.2f})'
        )
    weights = Path(args.checkpoint).name if args.checkpoint else 'random weights'
    args.out.mkdir(parents=True, exist_ok=True)
    content = {'config': args.config, 'checkpoint': args.checkpoint, 'block': 'last', 'rows': rows}
    content['plain_kmeans_largest_over_mean'] = kmeans
    (args.out / 'analysis.json').write_text(to_json(content, 1) + '\n')
    figure = analysis_figure(rows, f'{Path(args.config).stem}, {weights}, {rows[0]["images"]["compactness"]} images')
    mmcv.imwrite(figure[..., ::-1], str(args.out / 'analysis.png'))
    print(f'\n{args.out / "analysis.json"}\n{args.out / "analysis.png"}')
    if failed:
        sys.exit(1)


if __name__ == '__main__':
    run(main)
