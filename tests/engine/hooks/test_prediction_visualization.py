import types
from pathlib import Path

import cv2
import numpy as np
from mmengine.structures import BaseDataElement

from mmsec.engine.hooks.prediction_visualization import PredictionVisualizationHook


def a_test_of(images: list[Path], out: Path):
    """Let the hook draw a test set of a 4x6 image at each path; what the visualizer was given."""
    for path in images:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))
    drawn = []

    def add_datasample(name, image, data_sample, out_file, pred_score_thr=None):
        drawn.append((image.shape, str(Path(out_file).relative_to(out)), pred_score_thr))

    infos = [{'img_path': str(path)} for path in images]
    dataset = type('Dataset', (), {'get_data_info': lambda _, i: infos[i], '__len__': lambda _: len(infos)})()
    loader = types.SimpleNamespace(dataset=dataset)
    runner = types.SimpleNamespace(
        visualizer=types.SimpleNamespace(add_datasample=add_datasample), test_dataloader=loader
    )
    hook = PredictionVisualizationHook(str(out), score_thr=0.7, num_sheet_images=0)
    samples = [BaseDataElement(metainfo=info) for info in infos]
    samples[-1].pred_instances = BaseDataElement()
    hook.before_test_epoch(runner)
    hook.after_test_iter(runner, 0, {}, samples)
    return drawn


def test_pictures_are_named_after_their_images_and_none_is_drawn_over_another(tmp_path):
    images = ['a/1.jpg', 'b/1.jpg', 'b/1.png', 'contact_sheet.jpg', 'dog.jpg']
    drawn = a_test_of([tmp_path / 'set' / name for name in images], tmp_path / 'out')
    names = ['a/1.png', 'b/1.jpg.png', 'b/1.png.png', 'contact_sheet.jpg.png', 'dog.png']
    assert drawn == [((4, 6, 3), name, 0.7 if name == 'dog.png' else None) for name in names]
