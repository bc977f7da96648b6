"""Label maps of nuclei for a segmentor, from their COCO set: 1 in a nucleus, 0 elsewhere."""

import argparse
from pathlib import Path

import mmcv
import numpy as np
from pycocotools.coco import COCO


def main() -> None:
    """Write a PNG for each image, in the folder ``labels``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', type=Path, help='folder of the COCO set, such as data/nuclei')
    root = parser.parse_args().data
    for split in ('train', 'val'):
        coco = COCO(str(root / f'annotations/{split}.json'))
        for key, image in coco.imgs.items():
            labels = np.zeros((image['height'], image['width']), np.uint8)
            for each in coco.loadAnns(coco.getAnnIds(key)):
                labels |= coco.annToMask(each)
            mmcv.imwrite(labels, str(root / 'labels' / split / f'{Path(image["file_name"]).stem}.png'))


if __name__ == '__main__':
    main()
