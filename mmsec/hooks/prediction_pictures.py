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
        score_thr (float): Detections below this score are not drawn. Default: 0.5.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.5) -> None:
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[BaseDataElement]
    ) -> None:
        """Draw the images of one batch."""
        for sample in outputs:
            name = f'{Path(sample.img_path).stem}.png'
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            options = {'pred_score_thr': self.score_thr} if 'pred_instances' in sample else {}
            runner.visualizer.add_datasample(
                name, image, data_sample=sample, out_file=str(self.out_dir / name), **options
            )
