import types
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.structures import BaseDataElement

from mmsec.engine.hooks import PlainCheckpointHook, PredictionPicturesHook
from mmsec.registry import HOOKS


def test_history_goes_into_a_checkpoint_as_plain_values_and_comes_back(tmp_path):
    buffer = HistoryBuffer([1.0, 2.5], [1, 3])
    checkpoint = {'message_hub': {'log_scalars': {'train/loss': buffer}, 'runtime_info': {'eta': np.float64(1.5)}}}
    hook = HOOKS.build(dict(type='mmsec.PlainCheckpointHook'))
    hook.before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / 'c.pth')
    loaded = torch.load(tmp_path / 'c.pth', weights_only=True)
    hook.after_load_checkpoint(None, loaded)
    assert loaded['message_hub']['runtime_info'] == {'eta': 1.5}
    restored = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(restored, HistoryBuffer)
    assert [a.tolist() for a in restored.data] == [[1.0, 2.5], [1, 3]]


def test_checkpoints_without_history_load():
    PlainCheckpointHook().after_load_checkpoint(None, {'state_dict': {}})


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
