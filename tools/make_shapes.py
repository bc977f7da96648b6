"""Write the generated data set of shapes, as COCO and as ADE20K."""

import argparse

from mmsec.datasets.shapes import write_shapes


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', help='folder to write to: coco/ and ade/ are made in it')
    parser.add_argument('--train', type=int, default=600, help='training images (default: %(default)s)')
    parser.add_argument('--val', type=int, default=100, help='validation images (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='equal seeds give equal data (default: %(default)s)')
    args = parser.parse_args()
    if min(args.train, args.val) < 1 or args.seed < 0:
        parser.error('--train and --val must be at least 1, --seed at least 0')
    return args


def main() -> None:
    """Write the data set."""
    args = parse_args()
    write_shapes(args.out, args.train, args.val, args.seed)
    print(f'{args.train} training and {args.val} validation images in {args.out}/coco and {args.out}/ade')


if __name__ == '__main__':
    main()
