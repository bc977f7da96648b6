"""Draw which tokens of an image a plain ViT merges, block by block: a sheet for each image."""

import argparse
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction
from torch import nn

from mmsec.cli.config import load_config
from mmsec.cli.images import check_outputs, find_images
from mmsec.cli.sheets import write_sheets
from mmsec.cli.weights import build_backbone
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.models import ViT
from mmsec.registry import MODELS
from mmsec.visualization.clusters import ClusterMap
from mmsec.visualization.merging import merging_sheet


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image file, folder or pattern')
    parser.add_argument('--config', required=True, help='config of mmdetection or mmsegmentation with a ViT')
    parser.add_argument('--checkpoint', help='published or trained weights (default: random ones)')
    parser.add_argument('--block', type=int, nargs='+', help='blocks from 1 (default: five, evenly spaced)')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder for the sheets, a PNG an image')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='changes to the config, such as model.backbone.merging.type=PiToMe',
    )
    return parser.parse_args()


def build(cfg: Config, checkpoint: str | None) -> tuple[ViT, nn.Module]:
    """The backbone in evaluation mode, and what makes its input of an image."""
    backbone = build_backbone(cfg, checkpoint)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    if not isinstance(backbone, ViT):
        raise InputError(f'the backbone of the config is {type(backbone).__name__}, which merges no tokens: take a ViT')
    if not cfg.model.backbone.get('merging'):
        raise InputError('the ViT of the config merges nothing: --cfg-options model.backbone.merging.type=PiToMe')
    if not checkpoint:
        print('no --checkpoint: weights are random')
    return backbone, preprocessor


def chosen_blocks(asked: list[int] | None, depth: int) -> list[int]:
    """Blocks to draw, from 0."""
    if asked is None:
        return sorted({round(i) for i in np.linspace(0, depth - 1, 5)})
    for block in asked:
        if not 1 <= block <= depth:
            raise InputError(f'--block {block}: the backbone has {depth} blocks')
    return [block - 1 for block in asked]


def merged_maps(backbone: ViT, batch: torch.Tensor, blocks: list[int]) -> list[ClusterMap]:
    """Which merged token each token of the first image is in, after each block."""
    stride = backbone.stage_strides[0]
    height, width = (-(-side // stride) for side in batch.shape[2:])
    maps = []
    mergings = backbone.mergings(batch)
    for block in blocks:
        merging = mergings[block]
        ids = torch.arange(height * width) if merging is None else merging.assignment[0, -height * width :].cpu()
        maps.append(ClusterMap(f'block {block + 1}', stride, ids.view(height, width)))
    return maps


def main() -> None:
    """Draw."""
    args = parse_args()
    images = find_images(args.images)
    check_outputs(images, args.out)
    backbone, preprocessor = build(load_config(args.config, args.cfg_options), args.checkpoint)
    blocks = chosen_blocks(args.block, len(backbone.blocks))
    write_sheets(
        images,
        args.out,
        preprocessor,
        backbone.in_channels,
        lambda image, batch: merging_sheet(image, merged_maps(backbone, batch, blocks)),
    )


if __name__ == '__main__':
    run(main)
