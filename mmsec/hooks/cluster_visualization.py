"""A sheet of clusters of a few validation images at each evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner

from mmsec.models import SecViT
from mmsec.registry import HOOKS
from mmsec.visualization import as_seen, cluster_maps, cluster_sheet


@HOOKS.register_module()
class ClusterVisualizationHook(Hook):
    """Show how the clusters of the same images change while the backbone learns.

    At each evaluation a sheet for each image goes to the run's visualizer, under ``clusters_<image name>`` and the
    iteration: as a file into ``vis_data/vis_image`` of the work dir, or to TensorBoard, as ``vis_backends`` says.

    Args:
        num_images (int): Images, spread evenly over the validation set. Default: 2.
        stages (Sequence[int]): Stages from 0. Default: (0, 1, 2).

    Raises:
        ValueError: If ``num_images`` is below 1; when training starts, if the backbone is not a SecViT of these stages.
    """

    def __init__(self, num_images: int = 2, stages: Sequence[int] = (0, 1, 2)) -> None:
        if num_images < 1:
            raise ValueError(f'num_images must be at least 1, got {num_images}')
        self.num_images = num_images
        self.stages = tuple(stages)

    def before_train(self, runner: Runner) -> None:
        """Refuse another backbone, or stages it does not have, before hours of training."""
        count = len(_unwrapped(runner).backbone.stages)
        if not self.stages or not set(self.stages) <= set(range(count)):
            raise ValueError(f'ClusterVisualizationHook: stages must be in [0, {count - 1}], got {self.stages}')

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw."""
        model, dataset = _unwrapped(runner), runner.val_dataloader.dataset
        count = min(self.num_images, len(dataset))
        for index in np.linspace(0, len(dataset) - 1, count).round().astype(int):
            sample = dataset[int(index)]
            image, batch = as_seen(model.data_preprocessor, sample)
            name = f'clusters_{Path(sample["data_samples"].img_path).stem}'
            sheet = cluster_sheet(image, cluster_maps(model.backbone, batch, self.stages))
            runner.visualizer.add_image(name, sheet, step=runner.iter)


def _unwrapped(runner: Runner) -> BaseModel:
    """The model without its wrapper for several processes."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, SecViT):
        raise ValueError(f'ClusterVisualizationHook: the backbone is a {type(backbone).__name__}, not a SecViT')
    return model
