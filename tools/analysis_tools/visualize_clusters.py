"""Draw the clusters that a backbone groups an image's tokens into: a sheet for each image."""

import argparse
from pathlib import Path

from torch import nn

from mmsec.cli.config import load_config
from mmsec.cli.grouping import add_grouping, set_grouping
from mmsec.cli.images import check_outputs, find_images
from mmsec.cli.sheets import write_sheets
from mmsec.cli.weights import build_backbone, config_of_backbone
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.models import ClusTR, SecViT
from mmsec.models.backbones.base import Backbone
from mmsec.models.inspection import scales_of
from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.registry import MODELS
from mmsec.visualization.clusters import cluster_maps, cluster_sheet

ARCHS = {arch: kind.__name__ for kind in (SecViT, ClusTR) for arch in kind.arch_zoo}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image file, folder or pattern')
    parser.add_argument('--config', help='config of mmdetection or mmsegmentation with a backbone of mmsec')
    parser.add_argument('--arch', choices=ARCHS, help='instead of --config')
    parser.add_argument('--checkpoint', help='published or trained weights (default: random ones)')
    parser.add_argument('--stage', type=int, nargs='+', choices=range(1, 5), default=[1, 2, 3], help='default: 1 2 3')
    parser.add_argument('--block', type=int, help='block of the stage from 1 (default: the last)')
    parser.add_argument(
        '--head', default='mean', metavar='all|mean|I', help='head or scale from 1 (default: %(default)s)'
    )
    parser.add_argument('--clusters', type=int, metavar='M', help='clusters, instead of those of the model')
    add_grouping(parser)
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder for the sheets, a PNG an image')
    args = parser.parse_args()
    if bool(args.config) == bool(args.arch):
        parser.error('give either --config or --arch')
    if args.head not in ('all', 'mean') and not args.head.isdigit():
        parser.error(f'--head must be all, mean or a number, got {args.head}')
    if args.clusters is not None and args.clusters < 1:
        parser.error(f'--clusters must be at least 1, got {args.clusters}')
    return args


def build(args: argparse.Namespace) -> tuple[Backbone, nn.Module]:
    """The backbone in evaluation mode, and what makes its input of an image."""
    if args.config:
        cfg = load_config(args.config)
    else:
        cfg = config_of_backbone(type=f'mmsec.{ARCHS[args.arch]}', arch=args.arch)
    set_grouping(cfg, args.grouping)
    backbone = build_backbone(cfg, args.checkpoint)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    if not args.checkpoint:
        print('no --checkpoint: weights are random')
    for stage in args.stage:
        layers = backbone.attention_layers()
        if stage > len(layers):
            raise InputError(f'--stage {stage}: the backbone has {len(layers)} stages')
        blocks, scales = len(layers[stage - 1]), scales_of(backbone, stage - 1)
        heads = len(scales) or layers[stage - 1][0].num_heads
        if args.block is not None and not 1 <= args.block <= blocks:
            raise InputError(f'--block {args.block}: stage {stage} has {blocks} blocks')
        if args.head.isdigit() and not 1 <= int(args.head) <= heads:
            raise InputError(f'--head {args.head}: stage {stage} has {heads} {"scales" if scales else "heads"}')
        if args.clusters:
            for layer in layers[stage - 1]:
                if not hasattr(layer, 'count'):
                    raise InputError(f'--clusters {args.clusters}: {type(backbone).__name__} has no such option')
                layer.count = ClusterCount(args.clusters)
    return backbone, preprocessor


def main() -> None:
    """Draw."""
    args = parse_args()
    images = find_images(args.images)
    check_outputs(images, args.out)
    backbone, preprocessor = build(args)
    stages = [stage - 1 for stage in args.stage]
    block = -1 if args.block is None else args.block - 1
    heads = args.head if args.head in ('all', 'mean') else int(args.head) - 1
    write_sheets(
        images,
        args.out,
        preprocessor,
        backbone.in_channels,
        lambda image, batch: cluster_sheet(image, cluster_maps(backbone, batch, stages, block, heads)),
    )


if __name__ == '__main__':
    run(main)
