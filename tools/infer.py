"""Predict images with a trained model of either host: a picture and a JSON file for each."""

import argparse
import sys
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

if __name__ == '__main__':  # before torch loads OpenMP
    from mmsec.cli.openmp import choose_threads

    choose_threads()

import mmcv
import numpy as np
import torch
from mmengine.config import DictAction
from mmengine.infer.infer import BaseInferencer
from mmengine.utils import ProgressBar

from mmsec.cli.config import check_operators, load_config
from mmsec.cli.heads import check_channels
from mmsec.cli.images import check_outputs, find_images
from mmsec.cli.inference import SCORE_THR, build_inferencer
from mmsec.cli.processor import optimize_on_cpu
from mmsec.datasets.image_files import read_image
from mmsec.engine.files import to_json
from mmsec.engine.processes import run
from mmsec.errors import InputError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('input', help="image file, folder, or pattern such as 'photos/*.jpg'")
    parser.add_argument('config', help='config file of mmdetection or mmsegmentation')
    parser.add_argument('checkpoint', help='checkpoint trained with it')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder for pictures and JSON files')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='images at once (default: %(default)s)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: a GPU if there is one)')
    parser.add_argument(
        '--score-thr',
        type=float,
        metavar='P',
        help=f'leave out boxes below this score (mmdetection; default: {SCORE_THR})',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    args = parser.parse_args()
    if args.batch_size < 1:
        parser.error(f'--batch-size must be at least 1, got {args.batch_size}')
    if args.score_thr is not None and not 0 <= args.score_thr <= 1:
        parser.error(f'--score-thr must be in [0, 1], got {args.score_thr}')
    return args


def batches(images: dict[Path, Path], size: int, failed: list[Path]) -> Iterator[list[Path]]:
    """Up to ``size`` images in a row that are equally large; those that cannot be read go to ``failed``."""

    def readable() -> Iterator[tuple[Path, tuple[int, ...]]]:
        for path in images:
            try:
                yield path, read_image(path).shape
            except InputError as error:
                print(f'error: {error}', file=sys.stderr)
                failed.append(path)

    for _, group in groupby(readable(), key=lambda each: each[1]):
        paths = (path for path, _ in group)
        while batch := list(islice(paths, size)):
            yield batch


def predicted(
    inferencer: BaseInferencer, paths: list[Path], options: dict, failed: list[Path]
) -> Iterator[tuple[Path, Any, np.ndarray]]:
    """What is found on each image of a batch, and its picture; images that the model fails on go to ``failed``."""
    try:
        results = inferencer([str(path) for path in paths], batch_size=len(paths), return_vis=True, **options)
    except Exception as error:  # of any kind: an image may be too large, too flat, or of other channels
        if len(paths) > 1:
            for path in paths:
                yield from predicted(inferencer, [path], options, failed)
        else:
            reason = ' '.join(str(error).split())[:200]
            print(f"error: '{paths[0]}' cannot be predicted: {type(error).__name__}: {reason}", file=sys.stderr)
            failed += paths
        return
    predictions, pictures = results['predictions'], results['visualization']
    if not isinstance(predictions, list):  # mmsegmentation unwraps a single image
        predictions, pictures = [predictions], [pictures]
    yield from zip(paths, predictions, pictures, strict=True)


def detections(found: dict, classes: list[str], score_thr: float) -> dict[str, Any]:
    """What the JSON file holds of a detector's image, best score first."""
    masks = found.get('masks') or [None] * len(found['labels'])
    instances = [
        {'class': classes[label], 'label': label, 'score': score, 'box': box} | ({'mask': mask} if mask else {})
        for label, score, box, mask in zip(found['labels'], found['scores'], found['bboxes'], masks, strict=True)
        if score >= score_thr
    ]
    return {'instances': sorted(instances, key=lambda instance: -instance['score'])}


def segmentation(label_map: np.ndarray, classes: list[str], file: Path) -> dict[str, Any]:
    """What the JSON file holds of a segmenter's image; the label map itself is written to ``file``."""
    mmcv.imwrite(label_map.astype(np.uint8 if len(classes) < 256 else np.uint16), str(file))
    labels, counts = np.unique(label_map, return_counts=True)
    shares = {classes[label]: count / label_map.size for label, count in zip(labels, counts.tolist(), strict=True)}
    return {'label_map': file.name, 'share_of_pixels': dict(sorted(shares.items(), key=lambda share: -share[1]))}


def main() -> None:
    """Predict."""
    args = parse_args()
    args.device = args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    check_operators(args.device)
    images = find_images([args.input])
    check_outputs(images, args.out)
    check_outputs(images, args.out, '_labels.png')
    cfg = load_config(args.config, args.cfg_options, hosts=('mmdet', 'mmseg'))
    detector = cfg.default_scope == 'mmdet'
    if not detector and args.score_thr is not None:
        raise InputError(f"--score-thr: '{args.config}' is a segmenter, whose pixels have no score to leave out")
    score_thr = SCORE_THR if args.score_thr is None else args.score_thr
    check_channels(cfg)
    inferencer = build_inferencer(cfg, args.checkpoint, args.device)
    optimize_on_cpu(inferencer.model)
    classes = list(inferencer.model.dataset_meta['classes'])
    options = {'pred_score_thr': score_thr} if detector else {}
    failed: list[Path] = []
    bar = ProgressBar(len(images)) if len(images) > 3 else None
    for batch in batches(images, args.batch_size, failed):
        for path, found, picture in predicted(inferencer, batch, options, failed):
            out = args.out / images[path]
            mmcv.imwrite(picture[..., ::-1], f'{out}.png')
            if detector:
                content = detections(found, classes, score_thr)
            else:
                content = segmentation(found, classes, Path(f'{out}_labels.png'))
            Path(f'{out}.json').write_text(to_json({'image': str(path)} | content, 1) + '\n')
            if bar:
                bar.update()
            else:
                print(f'{out}.png')
    print(
        f'{chr(10) if bar else ""}{len(images) - len(failed)} images predicted, pictures and JSON files in {args.out}'
    )
    if failed:
        print(f'error: {len(failed)} images were left out, see above', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    run(main)
