"""A trained model of a host -> what it predicts of an image."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.infer.infer import BaseInferencer
from mmengine.registry import MODELS

from mmsec.cli.heads import check_classes
from mmsec.cli.weights import load_state
from mmsec.errors import InputError
from mmsec.models.checkpoints.loading import classifier_weights
from mmsec.models.checkpoints.reading import forget_checkpoints, read_checkpoint, weights_of

_LISTED = 5
SCORE_THR = 0.3
"""Least score of a detection that is shown, where nothing else is said."""


def build_inferencer(cfg: Config, path: str, device: str | None) -> BaseInferencer:
    """The inferencer of mmdetection or mmsegmentation with every weight of the checkpoint at ``path``."""
    checkpoint = read_checkpoint(path)
    load_state(MODELS.build(cfg.model), checkpoint, path)  # strict; the inferencers are not
    if not isinstance((checkpoint.get('meta', {}).get('dataset_meta') or {}).get('classes'), list | tuple):
        raise InputError(f"checkpoint '{path}' has no class names (meta.dataset_meta.classes)")
    check_classes(cfg, checkpoint['meta']['dataset_meta'], f"checkpoint '{path}'")
    if cfg.default_scope == 'mmdet':
        from mmdet.apis import DetInferencer as Inferencer
    else:
        from mmseg.apis import MMSegInferencer as Inferencer
    if cfg.get('visualizer'):
        cfg.visualizer.vis_backends = []  # it draws, and records nothing
    inferencer = Inferencer(cfg, path, device=device, scope=cfg.default_scope)
    inferencer.show_progress = False  # no option of stock mmsegmentation's
    forget_checkpoints()
    return inferencer


class Predictor(NamedTuple):
    """A model, and what predicts an image by its path: a picture, uint8 RGB, if there is one, and a line of text."""

    model: Any
    predict: Callable[[Path], tuple[np.ndarray | None, str]]


def build_predictor(cfg: Config, path: str, device: str) -> Predictor | None:
    """What predicts by a checkpoint that has a head.

    Returns:
        Predictor, optional: Without a picture for a class of the whole image. None where the checkpoint is of a
        backbone alone, or the config of another host than mmdet, mmseg and mmpretrain.
    """
    checkpoint, host = read_checkpoint(path), cfg.get('default_scope')
    weights = weights_of(checkpoint)
    of_backbone = [name for name in weights if name.startswith('backbone.')]
    if host == 'mmpretrain':
        return _classifier(cfg, checkpoint, path, device)
    if host not in ('mmdet', 'mmseg') or not 0 < len(of_backbone) < len(weights):
        return None
    inferencer = build_inferencer(cfg, path, device)
    classes = inferencer.model.dataset_meta['classes']

    def predict(image: Path) -> tuple[np.ndarray, str]:
        results = inferencer([str(image)], return_vis=True)
        found, picture = results['predictions'], results['visualization']
        if host == 'mmseg':  # which unwraps a single image
            labels, counts = np.unique(found, return_counts=True)
            shares = sorted(zip(counts / found.size, labels, strict=True), reverse=True)
            return picture, _listed([f'{classes[label]} {share:.0%}' for share, label in shares])
        pairs = zip(found[0]['labels'], found[0]['scores'], strict=True)
        counted = Counter(classes[label] for label, score in pairs if score >= SCORE_THR)
        said = _listed([f'{count} {name}' for name, count in counted.most_common()])
        return picture[0], f'{said} (score {SCORE_THR} or more)'

    return Predictor(inferencer.model, predict)


def _classifier(cfg: Config, checkpoint: dict, path: str, device: str) -> Predictor | None:
    """As :func:`build_predictor` for mmpretrain; a published file has a head, too."""
    from mmpretrain.apis import ImageClassificationInferencer
    from mmpretrain.registry import DATASETS

    model, weights = MODELS.build(cfg.model), weights_of(checkpoint)
    if not any(name.startswith('backbone.') for name in weights):
        weights = classifier_weights(model, checkpoint)
    if not any(name.startswith('head.') for name in weights):
        return None
    load_state(model, {'state_dict': weights}, path)
    meta = checkpoint.get('meta', {}).get('dataset_meta') or DATASETS.get(cfg.test_dataloader.dataset.type).METAINFO
    names = meta.get('classes') or [f'class {i}' for i in range(cfg.model.head.num_classes)]
    model._config = cfg
    inferencer = ImageClassificationInferencer(model, device=device)

    def predict(image: Path) -> tuple[None, str]:
        scores = inferencer(str(image))[0]['pred_scores']
        return None, _listed([f'{names[label]} {scores[label]:.0%}' for label in (-scores).argsort()])

    return Predictor(model, predict)


def _listed(words: list[str]) -> str:
    return ', '.join(words[:_LISTED]) + ', ...' * (len(words) > _LISTED) or 'nothing'
