"""Truth beside prediction for every test image."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmsec.registry import HOOKS


@HOOKS.register_module()
class PredictionPicturesHook(Hook):
    """Draw each test image with the run's visualizer: truth on the left, prediction on the right.

    Args:
        out_dir (str): Folder for the pictures, one PNG per image, named after it.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = Path(out_dir)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[BaseDataElement]
    ) -> None:
        """Draw the images of one batch."""
        for sample in outputs:
            name = f'{Path(sample.img_path).stem}.png'
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            runner.visualizer.add_datasample(name, image, data_sample=sample, out_file=str(self.out_dir / name))
