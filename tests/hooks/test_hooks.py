import types
from pathlib import Path

import cv2
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


def a_test_of(images: list[Path], out: Path):
    """Let the hook draw a test set of a 4x6 image at each path; what the visualizer was given."""
    for path in images:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))
    drawn = []

    class Visualizer:
        def add_datasample(self, name, image, data_sample, out_file, pred_score_thr=None):
            drawn.append((image.shape, Path(out_file).relative_to(out), pred_score_thr))

    infos = [{'img_path': str(path)} for path in images]
    dataset = type('Dataset', (), {'get_data_info': lambda _, i: infos[i], '__len__': lambda _: len(infos)})()
    loader = types.SimpleNamespace(dataset=dataset)
    runner = types.SimpleNamespace(visualizer=Visualizer(), test_dataloader=loader)
    hook = PredictionPicturesHook(str(out), score_thr=0.7, num_sheet_images=0)
    samples = [BaseDataElement(metainfo=info) for info in infos]
    samples[-1].pred_instances = BaseDataElement()
    hook.before_test_epoch(runner)
    hook.after_test_iter(runner, 0, {}, samples)
    return drawn


def test_pictures_are_named_after_their_images(tmp_path):
    drawn = a_test_of([tmp_path / 'cat.jpg', tmp_path / 'dog.jpg'], tmp_path / 'out')
    assert drawn == [((4, 6, 3), Path('cat.png'), None), ((4, 6, 3), Path('dog.png'), 0.7)]


def test_no_picture_is_drawn_over_another(tmp_path):
    images = ['a/1.jpg', 'b/1.jpg', 'b/1.png', 'contact_sheet.jpg']
    drawn = a_test_of([tmp_path / 'set' / name for name in images], tmp_path / 'out')
    assert [str(name) for _, name, _ in drawn] == ['a/1.png', 'b/1.jpg.png', 'b/1.png.png', 'contact_sheet.jpg.png']


def test_hooks_refuse_unknown_options():
    with pytest.raises(TypeError, match='out_directory'):
        HOOKS.build(dict(type='mmsec.PredictionPicturesHook', out_directory='x'))
