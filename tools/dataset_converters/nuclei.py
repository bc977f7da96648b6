"""Convert the nuclei of the Data Science Bowl 2018 to a COCO set, for configs/mmdet/*_nuclei.py."""

import argparse

from mmsec.datasets.nuclei import convert_nuclei
from mmsec.engine.processes import run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='folder with stage1_train/<id>/{images,masks}/*.png')
    parser.add_argument('out', help='folder to write to, such as data/nuclei')
    return parser.parse_args()


def main() -> None:
    """Convert."""
    args = parse_args()
    for split, written in convert_nuclei(args.source, args.out).items():
        left_out = f', {written.empty} masks without a pixel left out' if written.empty else ''
        print(f'{written.images} images with {written.nuclei} nuclei in {args.out}/{split}{left_out}')


if __name__ == '__main__':
    run(main)
