"""How much broken data a run puts up with."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsec.datasets.skip_broken import SkipBroken
from mmsec.errors import InputError
from mmsec.registry import HOOKS

_LISTED = 20


@HOOKS.register_module()
class BrokenDataHook(Hook):
    """Count samples that :class:`mmsec.datasets.SkipBroken` left out, and boxes that lie outside their images.

    Boxes outside are looked for once, in COCO annotation files, before training; mmdetection leaves them out without a
    word. Samples are counted over each epoch's worth of images.

    Args:
        max_share (float): The run stops when more than this share of the samples of an epoch, or of the boxes, is
            broken. Default: 0.01.
    """

    def __init__(self, max_share: float = 0.01) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f'max_share must be between 0 and 1, got {max_share}')
        self.max_share = max_share
        self._loaders: list[SkipBroken] = []
        self._seen = self._before = 0

    def before_train(self, runner: Runner) -> None:
        """Find the transforms that count, and look at the boxes.

        Raises:
            InputError: If too many boxes lie outside their images.
        """
        datasets = list(_datasets(runner.train_dataloader.dataset))
        transforms = [t for each in datasets for t in getattr(getattr(each, 'pipeline', None), 'transforms', [])]
        self._loaders = [t for t in transforms if isinstance(t, SkipBroken)]
        self._before = self._total()
        if is_main_process():
            for file in {each.ann_file for each in datasets if str(getattr(each, 'ann_file', '')).endswith('.json')}:
                self._check_boxes(runner, file)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Stop when too much was left out.

        Raises:
            InputError: If more than ``max_share`` of an epoch is broken.
        """
        broken = self._total() - self._before
        epoch = math.ceil(len(runner.train_dataloader.dataset) / get_world_size())  # of this process
        if broken > self.max_share * epoch:
            raise InputError(
                f'{broken} samples were broken and left out, more than {self.max_share:.1%} of the {epoch} of an epoch '
                '(of this process). The log names each: look for "sample left out". To put up with more, set max_share '
                'of mmsec.BrokenDataHook'
            )
        self._seen += len(data_batch['data_samples'])
        if self._seen >= epoch:
            if broken:
                runner.logger.warning(f'{broken} of the last {epoch} samples were broken and left out')
            self._seen, self._before = 0, self._before + broken

    def _total(self) -> int:
        return sum(loader.count.value for loader in self._loaders)

    def _check_boxes(self, runner: Runner, file: str) -> None:
        """Name the boxes of a COCO file that lie outside their images."""
        content = json.loads(Path(file).read_bytes()) if Path(file).is_file() else None
        if not isinstance(content, dict) or not {'images', 'annotations'} <= set(content):
            return  # not a COCO file
        images = {image['id']: image for image in content['images']}
        outside = [each for each in content['annotations'] if _is_outside(each, images.get(each['image_id']))]
        for each in outside[:_LISTED]:
            image = images.get(each['image_id'], {'file_name': 'no image of the file', 'width': 0, 'height': 0})
            runner.logger.error(
                f'{file}: annotation {each["id"]} left out, its box {each["bbox"]} lies outside image '
                f'{image["file_name"]} of {image["width"]}x{image["height"]}'
            )
        if outside:
            total = len(content['annotations'])
            runner.logger.error(f'{file}: {len(outside)} of {total} boxes lie outside their images and are left out')
            if len(outside) > self.max_share * total:
                raise InputError(
                    f"annotation file '{file}': {len(outside)} of {total} boxes lie outside their images, more than "
                    f'{self.max_share:.1%}; the log names the first. Is it the file of these images? To put up with '
                    'more, set max_share of mmsec.BrokenDataHook'
                )


def _is_outside(annotation: dict, image: dict | None) -> bool:
    """Whether nothing of a box is inside its image."""
    if image is None or 'bbox' not in annotation:
        return image is None
    x, y, width, height = annotation['bbox']
    return x >= image['width'] or y >= image['height'] or x + width <= 0 or y + height <= 0


def _datasets(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers."""
    inner = [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', None)
    if inner is None:
        yield dataset
    else:
        for each in inner:
            yield from _datasets(each)
