"""A sheet of clusters of a few validation images at each evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmsec.engine.unwrap import unwrapped
from mmsec.errors import InputError
from mmsec.models.backbones.base import Backbone
from mmsec.registry import HOOKS
from mmsec.visualization.clusters import cluster_maps, cluster_sheet
from mmsec.visualization.drawing import as_seen
from mmsec.visualization.names import picture_names


@HOOKS.register_module()
class ClusterVisualizationHook(Hook):
    """Show how the clusters of the same images change while the backbone learns.

    At each evaluation a sheet for each image goes to the run's visualizer, under ``clusters_<image name>`` and the
    iteration: as a file into ``vis_data/vis_image`` of the work dir, or to TensorBoard, as ``vis_backends`` says.

    Args:
        num_images (int): Images, spread evenly over the validation set. Default: 2.
        stages (Sequence[int]): Stages from 0. Default: (0, 1, 2).

    Raises:
        ValueError: If ``num_images`` is below 1.
        InputError: When training starts, if the backbone is none of mmsec, or has not these stages.
    """

    def __init__(self, num_images: int = 2, stages: Sequence[int] = (0, 1, 2)) -> None:
        if num_images < 1:
            raise ValueError(f'num_images must be at least 1, got {num_images}')
        self.num_images = num_images
        self.stages = tuple(stages)

    def before_train(self, runner: Runner) -> None:
        """Refuse another backbone, or stages it does not have, before hours of training."""
        count = len(_model(runner).backbone.attention_layers())
        if not self.stages or not set(self.stages) <= set(range(count)):
            raise InputError(f'ClusterVisualizationHook: stages must be in [0, {count - 1}], got {self.stages}')

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw."""
        model, dataset = _model(runner), runner.val_dataloader.dataset
        count = min(self.num_images, len(dataset))
        chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
        samples = [dataset[index] for index in chosen.tolist()]
        images = [Path(sample['data_samples'].img_path) for sample in samples]
        names = picture_names(images)
        for path, sample in zip(images, samples, strict=True):
            image, batch = as_seen(model.data_preprocessor, sample)
            name = names[path].as_posix().replace('%', '%25').replace('/', '%2F')  # backends make no folders
            sheet = cluster_sheet(image, cluster_maps(model.backbone, batch, self.stages))
            runner.visualizer.add_image(f'clusters_{name}', sheet, step=runner.iter)


def _model(runner: Runner) -> BaseModel:
    """The model, whose backbone can be looked at."""
    model = unwrapped(runner.model)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, Backbone):
        raise InputError(f'ClusterVisualizationHook: the backbone is a {type(backbone).__name__}, none of mmsec')
    return model
