"""Draw the clusters that SecViT groups an image's tokens into: a sheet for each image."""

import argparse
import sys
from pathlib import Path

import mmcv
import torch
from mmengine.utils import track_iter_progress
from torch import Tensor

from mmsec.engine import load_config
from mmsec.errors import InputError
from mmsec.models import SecViT
from mmsec.models.checkpoint import load_pretrained
from mmsec.registry import MODELS
from mmsec.visualization import ClusterMap, cluster_sheet, mean_of_heads

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
MEAN, STD = (
    (123.675, 116.28, 103.53),
    (58.395, 57.12, 57.375),
)  # of ImageNet, which all published weights were trained with


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', nargs='+', type=Path, metavar='IMAGE', help='image file or folder of images')
    parser.add_argument('--config', help='config of mmdetection or mmsegmentation whose backbone is SecViT')
    parser.add_argument('--arch', choices=sorted(SecViT.arch_zoo), help='instead of --config')
    parser.add_argument('--checkpoint', help='published or trained weights (default: random ones)')
    parser.add_argument('--stage', type=int, nargs='+', choices=range(1, 5), default=[1, 2, 3], help='default: 1 2 3')
    parser.add_argument('--block', type=int, help='block of the stage from 1 (default: the last)')
    parser.add_argument('--head', default='mean', metavar='all|mean|I', help='head from 1 (default: %(default)s)')
    parser.add_argument('--clusters', type=int, metavar='M', help='clusters, instead of those of the model')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder for the sheets, a PNG an image')
    args = parser.parse_args()
    if bool(args.config) == bool(args.arch):
        parser.error('give either --config or --arch')
    if args.head not in ('all', 'mean') and not args.head.isdigit():
        parser.error(f'--head must be all, mean or a number, got {args.head}')
    if args.clusters is not None and args.clusters < 1:
        parser.error(f'--clusters must be at least 1, got {args.clusters}')
    return args


def build(args: argparse.Namespace) -> tuple[SecViT, Tensor, Tensor]:
    """The backbone in evaluation mode, and mean and deviation of the colours it wants, (3, 1, 1) each."""
    mean, std, options = MEAN, STD, dict(type='mmsec.SecViT', arch=args.arch)
    if args.config:
        cfg = load_config(args.config)
        options = cfg.model.get('backbone', {})
        if options.get('type') not in ('mmsec.SecViT', 'SecViT'):
            raise InputError(f"config '{args.config}': the backbone is {options.get('type')}, not mmsec.SecViT")
        options.init_cfg = None  # --checkpoint says what to load
        mean, std = cfg.model.data_preprocessor.mean, cfg.model.data_preprocessor.std
    backbone = MODELS.build(options)
    if args.checkpoint:
        load_pretrained(backbone, args.checkpoint)
    else:
        print('no --checkpoint: weights are random')
    for stage in args.stage:
        if stage > len(backbone.stages):
            raise InputError(f'--stage {stage}: the backbone has {len(backbone.stages)} stages')
        blocks, heads = backbone.stages[stage - 1].blocks, backbone.stages[stage - 1].blocks[0].attn.num_heads
        if args.block is not None and not 1 <= args.block <= len(blocks):
            raise InputError(f'--block {args.block}: stage {stage} has {len(blocks)} blocks')
        if args.head.isdigit() and not 1 <= int(args.head) <= heads:
            raise InputError(f'--head {args.head}: stage {stage} has {heads} heads')
        if args.clusters:
            backbone.stages[stage - 1].num_clusters = args.clusters
    return backbone.eval(), *(torch.tensor(value).view(3, 1, 1) for value in (mean, std))


def find_images(paths: list[Path]) -> list[Path]:
    """The files named, and the images in the folders named."""
    found = []
    for path in paths:
        if not path.exists():
            raise InputError(f"image '{path}' not found")
        inside = (
            sorted(each for each in path.rglob('*') if each.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        )
        if not inside:
            raise InputError(f"no image in folder '{path}' ({', '.join(SUFFIXES)})")
        found += inside
    return found


def cluster_maps(backbone: SecViT, image: Tensor, args: argparse.Namespace) -> list[ClusterMap]:
    """A map for each stage and head that was asked for."""
    maps = []
    for stage in args.stage:
        ranks, scores = (t[0] for t in backbone.clusters(image, stage - 1, args.block - 1 if args.block else -1))
        title = f'stage {stage}' + (f', block {args.block}' if args.block else '')
        stride = 2 << stage
        if args.head == 'mean':
            maps.append(ClusterMap(f'{title}, mean of heads', stride, *mean_of_heads(scores, int(ranks.max()) + 1)))
        else:
            heads = range(len(ranks)) if args.head == 'all' else [int(args.head) - 1]
            maps += [ClusterMap(f'{title}, head {head + 1}', stride, ranks[head], scores[head]) for head in heads]
    return maps


def main() -> None:
    """Draw."""
    args = parse_args()
    paths = find_images(args.images)
    backbone, mean, std = build(args)
    failed = 0
    for path in track_iter_progress(paths) if len(paths) > 3 else paths:
        image = mmcv.imread(str(path))
        if image is None:
            print(f"error: '{path}' is not an image that can be read", file=sys.stderr)
            failed += 1
            continue
        image = image[..., ::-1].copy()  # RGB
        pixels = (torch.from_numpy(image).permute(2, 0, 1).float() - mean) / std
        sheet = cluster_sheet(image, cluster_maps(backbone, pixels[None], args))
        out = args.out / f'{path.stem}.png'
        mmcv.imwrite(sheet[..., ::-1], str(out))
        if len(paths) <= 3:
            print(out)
    print(f'{len(paths) - failed} sheets in {args.out}')
    if failed:
        sys.exit(1)


if __name__ == '__main__':
    try:
        main()
    except InputError as error:
        sys.exit(f'error: {error}')
