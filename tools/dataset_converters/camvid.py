"""Convert CamVid, as the SegNet tutorial has it, to the folders that configs/mmseg/*_camvid.py read."""

import argparse

from mmsec.datasets.camvid import convert_camvid
from mmsec.engine.processes import run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='folder with {train,val,test}/*.png and {train,val,test}annot/*.png')
    parser.add_argument('out', help='folder to write to, such as data/camvid')
    return parser.parse_args()


def main() -> None:
    """Convert."""
    args = parse_args()
    for split, count in convert_camvid(args.source, args.out).items():
        print(f'{count} images in {args.out}/images/{split}')


if __name__ == '__main__':
    run(main)
