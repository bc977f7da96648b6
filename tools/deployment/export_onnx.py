"""Write a backbone, or a segmentor up to its logits, as an ONNX file of ONNX's own operators."""

import argparse
from pathlib import Path

import torch

from mmsec.cli.config import load_config
from mmsec.cli.deployment import deployable, prepared, preprocessing
from mmsec.datasets.image_files import read_image
from mmsec.engine.files import write_whole
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.export import MIN_SIZE, Agreement, export, require_packages, verify
from mmsec.models.inspection import image_channels

TOLERANCE = 1e-4


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', metavar='CONFIG', help='config file of a segmentor; of any host with --backbone')
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', nargs='?', help='trained weights, or for --backbone published ones, too'
    )
    parser.add_argument('out', metavar='OUT', type=Path, help='file to write, such as model.onnx')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), required=True, help='size of the images')
    parser.add_argument(
        '--dynamic',
        action='store_true',
        help=f'the file takes any number of images of any size from {MIN_SIZE} pixels on; takes minutes to make',
    )
    parser.add_argument('--backbone', action='store_true', help="the backbone's maps alone")
    parser.add_argument(
        '--verify',
        type=Path,
        metavar='IMAGE',
        help='compare onnxruntime with torch on this image, resized to --shape; with --dynamic in two other sizes',
    )
    args = parser.parse_intermixed_args()
    least = MIN_SIZE if args.dynamic else 32
    if min(args.shape) < least:
        parser.error(f'--shape must be at least {least} {least}, got {args.shape[0]} {args.shape[1]}')
    if args.out.suffix != '.onnx':
        parser.error(f"OUT must end in .onnx, got '{args.out}'")
    return args


def say(what: str) -> None:
    """Say what takes time now."""
    print(f'{what} ...', flush=True)


def main() -> None:
    """Export, compare, write."""
    args = parse_args()
    require_packages()
    cfg = load_config(args.config)
    say(f"building the model of '{args.config}'")
    model, names = deployable(cfg, args.checkpoint, args.backbone)
    channels = image_channels(model)
    notes = preprocessing(cfg, channels)
    image = read_image(args.verify, channels) if args.verify else None
    if image is not None and args.dynamic and min(image.shape[:2]) < MIN_SIZE:
        raise InputError(f"--verify '{args.verify}' has a side of less than {MIN_SIZE} pixels")
    images = torch.zeros(1 + args.dynamic, channels, *args.shape)
    say(f'tracing it with {"images of any size, which takes minutes" if args.dynamic else "one image"}')
    exported = export(model, images, names, args.dynamic, notes)
    found: list[Agreement] = []
    if image is not None:
        height, width = image.shape[:2]
        # Of two sizes one at least is not that of the graph; 7 and 13 leave other remainders, whatever is divided by.
        sizes = [(height, width), (height + 7, width + 13)] if args.dynamic else [args.shape]
        say(f"comparing onnxruntime with torch on '{args.verify}'")
        found = [verify(model, exported, prepared(image, notes, size)) for size in sizes]
    write_whole(args.out, exported.content)
    size = 'any size' if args.dynamic else f'1x{channels}x{args.shape[0]}x{args.shape[1]}'
    print(f'{args.out}: {len(exported.content) / 2**20:.1f} MiB, images of {size} -> {", ".join(names)}')
    print(f'images come in as {notes["channels"]}, minus {notes["mean"]}, over {notes["std"]}')
    if not args.checkpoint:
        print('no CHECKPOINT: weights are random')
    for each in found:
        print(f'onnxruntime and torch differ by {each.own_order:.1e} of the largest value')
        if each.moved is not None:
            print(
                f'{each.moved:.3%} of tokens fell into another cluster; '
                f'in the same order of tokens the two differ by {each.same_order:.1e}'
            )
    if any(each.same_order > TOLERANCE for each in found):
        raise InputError(f'more than {TOLERANCE:.0e}: do not trust {args.out}')


if __name__ == '__main__':
    run(main)
