"""The part of a config's model that can be exported, and the images that it takes."""

import inspect
from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmsec.cli.config import revert_sync_bn
from mmsec.cli.weights import build_backbone, load_state
from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint


class Segmentor(nn.Module):
    """A segmentor of mmsegmentation that takes normalised images and returns logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, classes, H', W'), H' and W' as the head gives them."""
        return self.model(images, mode='tensor')


def deployable(cfg: Config, checkpoint: str | None, backbone: bool) -> tuple[nn.Module, list[str]]:
    """The backbone of a config or its :class:`Segmentor`, in evaluation mode, and the names of its outputs.

    Weights are those of a trained checkpoint, for the backbone also of a published one, or random ones without.

    Raises:
        InputError: If the whole model is wanted and is no segmentor of one graph, or the checkpoint does not fit.
    """
    if not backbone and cfg.default_scope != 'mmseg':
        raise InputError(
            f"'{cfg.filename}' is for {cfg.default_scope}: of its models the backbone alone can be exported, by "
            '--backbone'
        )
    revert_sync_bn(cfg, 'none')
    if backbone:
        model: Any = build_backbone(cfg, checkpoint)
        return model, [f'stage{i + 1}' for i in model.out_indices]
    model = MODELS.build(cfg.model)
    head = model.decode_head
    needed = [each for each in inspect.signature(head.forward).parameters.values() if each.default is each.empty]
    if not isinstance(head, nn.ModuleList) and len(needed) > 1:
        raise InputError(
            f"'{cfg.filename}': {type(head).__name__} needs {', '.join(each.name for each in needed[1:])} beside the "
            'maps, which are no part of a graph. Its backbone alone can be exported, by --backbone'
        )
    if checkpoint:
        load_state(model, read_checkpoint(checkpoint), checkpoint)
    return Segmentor(model).eval(), ['logits']


def preprocessing(cfg: Config, channels: int) -> dict[str, str]:
    """How an image of so many channels is normalised, as text: mean, standard deviation and order of channels."""
    part = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    rgb = part.get('bgr_to_rgb') or part.get('to_rgb')
    return {
        'mean': ' '.join(map(str, part.get('mean') or [0] * channels)),
        'std': ' '.join(map(str, part.get('std') or [1] * channels)),
        'channels': {1: 'grey', 3: 'RGB' if rgb else 'BGR'}.get(channels, f'{channels} channels'),
    }


def prepared(image: np.ndarray, notes: dict[str, str], shape: Sequence[int] | None) -> Tensor:
    """Resize and normalise an image.

    Args:
        image (np.ndarray): (H, W, C), BGR if it has three channels.
        notes (dict[str, str]): From :func:`preprocessing`.
        shape (Sequence[int], optional): Height and width it is resized to; None leaves it as large as it is.

    Returns:
        Tensor: (1, C, H, W) float32.
    """
    if shape is not None:
        image = np.atleast_3d(mmcv.imresize(image, (shape[1], shape[0])))
    if notes['channels'] == 'RGB':
        image = image[..., ::-1]
    mean, std = (np.array(notes[name].split(), np.float32) for name in ('mean', 'std'))
    return torch.from_numpy((image.astype(np.float32) - mean) / std).permute(2, 0, 1)[None].contiguous()
