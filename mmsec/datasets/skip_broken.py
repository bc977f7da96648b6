"""Loading that names what is broken and leaves it out."""

import logging
import multiprocessing
from collections.abc import Sequence

from mmcv.transforms import BaseTransform, Compose
from mmengine.logging import print_log

from mmsec.datasets.image_files import check_image_file
from mmsec.registry import TRANSFORMS


@TRANSFORMS.register_module()
class SkipBroken(BaseTransform):
    """Run the transforms that load a training sample; where they fail, log the file and leave the sample out.

    A data set draws another sample for one that is left out. Broken is: an image or label map that is missing, cannot
    be decoded or ends early, an image whose size is not the one its annotations were made for, a label map of another
    size than its image. ``mmsec.BrokenDataHook`` counts, and stops a run in which too much is broken.

    Not for evaluation, whose metric would silently be another.

    Args:
        transforms (Sequence[dict]): Such as LoadImageFromFile and LoadAnnotations.
    """

    def __init__(self, transforms: Sequence[dict]) -> None:
        self.transforms = Compose(list(transforms))
        self.count = multiprocessing.Value('q', 0)  # shared with the data loader's workers

    def transform(self, results: dict) -> dict | None:
        """Load one sample.

        Args:
            results (dict): What the data set knows of it, ``img_path`` among that.

        Returns:
            dict, optional: With what the transforms loaded; None where the sample is left out.
        """
        path = results.get('img_path', '')
        try:
            return self.load(results)
        except Exception as error:  # whatever a decoder throws, the run does not depend on one sample
            with self.count.get_lock():
                self.count.value += 1
            label = f" or its label map '{results['seg_map_path']}'" if 'seg_map_path' in results else ''
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            print_log(f"sample left out, '{path}'{label} is broken: {reason}", 'current', logging.ERROR)
            return None

    def load(self, results: dict) -> dict | None:
        """Load one sample as :meth:`transform` does, and raise whatever is wrong with it."""
        size = results.get('height'), results.get('width')
        for file in filter(None, (results.get('img_path'), results.get('seg_map_path'))):
            check_image_file(file)
        loaded = self.transforms(results)
        if loaded is not None:
            _check_sizes(loaded, size)
        return loaded


def _check_sizes(results: dict, annotated: tuple[int | None, int | None]) -> None:
    """Refuse annotations that are not of this image."""
    shape = results['img'].shape[:2]
    if None not in annotated and shape != annotated:
        raise ValueError(f'the image is {shape[0]}x{shape[1]}, its annotations are for {annotated[0]}x{annotated[1]}')
    label = results.get('gt_seg_map')
    if label is not None and label.shape[:2] != shape:
        raise ValueError(f'the image is {shape[0]}x{shape[1]}, the label map {label.shape[0]}x{label.shape[1]}')
