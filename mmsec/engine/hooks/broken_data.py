"""How much broken data a run puts up with."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsec.datasets.skip_broken import SkipBroken
from mmsec.datasets.wrappers import inner_datasets
from mmsec.errors import InputError
from mmsec.registry import HOOKS

_LISTED = 20
# How often the counts of all processes are added up, for which they wait for each other.
_CHECKS_AN_EPOCH = 20
_LONGEST_INTERVAL = 50  # iterations


@HOOKS.register_module()
class BrokenDataHook(Hook):
    """Count samples that :class:`mmsec.datasets.SkipBroken` left out, and boxes that lie outside their images.

    Boxes outside are looked for once, in COCO annotation files, before training; mmdetection leaves them out without a
    word. Samples are counted over each epoch's worth of images and over all processes, twenty times an epoch or more.

    Args:
        max_share (float): The run stops when more than this share of the samples of an epoch, or of the boxes, is
            broken. Default: 0.01.
    """

    def __init__(self, max_share: float = 0.01) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f'max_share must be between 0 and 1, got {max_share}')
        self.max_share = max_share
        self._loaders: list[SkipBroken] = []
        self._interval = 1
        self._broken_before = self._seen = self._seen_before = 0

    def before_train(self, runner: Runner) -> None:
        """Find the transforms that count, and refuse files of which too many boxes lie outside their images."""
        loader = runner.train_dataloader
        datasets = list(inner_datasets(loader.dataset))
        self._loaders = []
        self._broken_before, self._seen, self._seen_before = self._total(runner)[0], 0, 0
        batch_size = loader.batch_size or loader.batch_sampler.batch_size  # the first is None under a batch sampler
        iterations = math.ceil(len(loader.dataset) / (batch_size * get_world_size()))
        self._interval = min(max(iterations // _CHECKS_AN_EPOCH, 1), _LONGEST_INTERVAL)
        error: list[str | None] = [None]
        if is_main_process():
            files = {each.ann_file for each in datasets if str(getattr(each, 'ann_file', '')).endswith('.json')}
            error = [next(filter(None, (self._boxes_error(runner, file) for file in sorted(files))), None)]
        broadcast_object_list(error)
        if error[0]:
            raise InputError(error[0])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Stop all processes when more than ``max_share`` of an epoch was left out."""
        self._seen += len(data_batch['data_samples'])
        if not self.every_n_train_iters(runner, self._interval):
            return
        broken, seen = self._total(runner)
        broken -= self._broken_before
        epoch = len(runner.train_dataloader.dataset)
        if broken > self.max_share * epoch:
            raise InputError(
                f'{broken} samples were broken and left out, more than {self.max_share:.1%} of the {epoch} of an '
                'epoch. The log names each: look for "sample left out". To put up with more, set max_share of '
                'mmsec.BrokenDataHook'
            )
        last = seen - self._seen_before
        if last >= epoch:
            if broken:
                runner.logger.warning(f'{broken} of the last {last} samples were broken and left out')
            self._broken_before, self._seen_before = self._broken_before + broken, seen

    def _total(self, runner: Runner) -> tuple[int, int]:
        """Samples that were left out, in the workers too, and samples that were trained on, of all processes."""
        datasets = inner_datasets(runner.train_dataloader.dataset)
        transforms = [t for each in datasets for t in getattr(getattr(each, 'pipeline', None), 'transforms', [])]
        # A run can switch to another pipeline, whose transforms count from 0, so those of the first are kept.
        self._loaders += [t for t in transforms if isinstance(t, SkipBroken) and t not in self._loaders]
        total = torch.tensor([sum(loader.count.value for loader in self._loaders), self._seen])
        all_reduce(total)
        broken, seen = total.tolist()
        return broken, seen

    def _boxes_error(self, runner: Runner, file: str) -> str | None:
        """Name the boxes of a COCO file that lie outside their images; the error, if they are too many."""
        content = json.loads(Path(file).read_bytes()) if Path(file).is_file() else None
        if not isinstance(content, dict) or not {'images', 'annotations'} <= set(content):
            return None  # not a COCO file
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
                return (
                    f"annotation file '{file}': {len(outside)} of {total} boxes lie outside their images, more than "
                    f'{self.max_share:.1%}; the log names the first. Is it the file of these images? To put up with '
                    'more, set max_share of mmsec.BrokenDataHook'
                )
        return None


def _is_outside(annotation: dict, image: dict | None) -> bool:
    """Whether nothing of a box is inside its image."""
    if image is None or 'bbox' not in annotation:
        return image is None
    x, y, width, height = annotation['bbox']
    return x >= image['width'] or y >= image['height'] or x + width <= 0 or y + height <= 0
