"""Predictions of a segmentor -> a file."""

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import DumpResults


class DumpLabels(DumpResults):
    """Write label maps without the logits, which take a float for each class and pixel: as many times the space.

    Args:
        out_file_path (str): The file, which ends in .pkl.
    """

    def process(self, data_batch: Any, predictions: Sequence[dict]) -> None:
        """Keep what is no logits."""
        super().process(data_batch, [{k: v for k, v in each.items() if k != 'seg_logits'} for each in predictions])
