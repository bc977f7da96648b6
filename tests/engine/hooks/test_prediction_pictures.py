import types
from pathlib import Path

import numpy as np
import pytest
from mmengine.structures import BaseDataElement

from mmsec.engine.hooks import PredictionPicturesHook
from mmsec.registry import HOOKS


def test_pictures_are_named_after_their_images(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / 'cat.jpg'), np.zeros((4, 6, 3), np.uint8))
    drawn = []

    class Visualizer:
        def add_datasample(self, name, image, data_sample, out_file, pred_score_thr=None):
            drawn.append((image.shape, out_file, pred_score_thr))

    runner = types.SimpleNamespace(visualizer=Visualizer())
    hook = PredictionPicturesHook(str(tmp_path / 'out'), score_thr=0.7, num_sheet_images=0)
    samples = [BaseDataElement(metainfo={'img_path': str(tmp_path / 'cat.jpg')}) for _ in range(2)]
    samples[1].pred_instances = BaseDataElement()
    hook.after_test_iter(runner, 0, {}, samples)
    out = str(Path(tmp_path) / 'out' / 'cat.png')
    assert drawn == [((4, 6, 3), out, None), ((4, 6, 3), out, 0.7)]


def test_hooks_refuse_unknown_options():
    with pytest.raises(TypeError, match='out_directory'):
        HOOKS.build(dict(type='mmsec.PredictionPicturesHook', out_directory='x'))
