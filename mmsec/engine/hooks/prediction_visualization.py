"""Truth beside prediction for every test image, and a contact sheet of the first ones with their clusters."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmsec.datasets.regions import regions
from mmsec.engine.unwrap import unwrapped
from mmsec.models.backbones.base import Backbone
from mmsec.registry import HOOKS
from mmsec.visualization.clusters import cluster_maps
from mmsec.visualization.contact_sheet import SheetRow, contact_sheet
from mmsec.visualization.drawing import as_seen
from mmsec.visualization.names import picture_names

CONTACT_SHEET = 'contact_sheet.png'


@HOOKS.register_module()
class PredictionVisualizationHook(Hook):
    """Draw each test image with the run's visualizer: truth on the left, prediction on the right.

    The first images go onto a contact sheet too, ``contact_sheet.png``: image, truth, prediction, and what the
    backbone's stages group.

    Args:
        out_dir (str): Folder for the pictures, one PNG per image, named after it; see
            :func:`mmsec.visualization.names.picture_names`.
        score_thr (float): Detections below this score are not drawn. Default: 0.5.
        num_sheet_images (int): Images on the contact sheet; 0 for none. Default: 4.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.5, num_sheet_images: int = 4) -> None:
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr
        self.num_sheet_images = num_sheet_images
        self.rows: list[SheetRow] = []
        self.names: dict[Path, Path] = {}

    def before_test_epoch(self, runner: Runner) -> None:
        """Name the pictures of the whole test set, so that all processes agree and no two pictures are one file."""
        dataset = runner.test_dataloader.dataset
        images = [Path(dataset.get_data_info(index)['img_path']) for index in range(len(dataset))]
        self.names = picture_names(images, taken=[Path(CONTACT_SHEET).with_suffix('')])

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[BaseDataElement]
    ) -> None:
        """Draw the images of one batch."""
        for i, sample in enumerate(outputs):
            name = f'{self.names[Path(sample.img_path)]}.png'
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            options = {'pred_score_thr': self.score_thr} if 'pred_instances' in sample else {}
            runner.visualizer.add_datasample(
                name, image, data_sample=sample, out_file=str(self.out_dir / name), **options
            )
            if is_main_process() and len(self.rows) < self.num_sheet_images:
                if isinstance(data_batch['inputs'][0], list | tuple):  # several inputs of an image
                    runner.logger.warning('no contact sheet under test-time augmentation')
                    self.num_sheet_images = 0
                    continue
                inputs = {key: data_batch[key][i] for key in ('inputs', 'data_samples')}
                self.rows.append(self._row(runner, inputs, sample))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw the contact sheet."""
        if self.rows:
            meta = runner.visualizer.dataset_meta
            palette = meta.get('palette')  # mmdetection may have the word 'random' here
            palette = None if isinstance(palette, str) else palette
            sheet = contact_sheet(self.rows, meta['classes'], palette)
            mmcv.imwrite(sheet[..., ::-1], str(self.out_dir / CONTACT_SHEET))
            self.rows.clear()

    def _row(self, runner: Runner, inputs: dict, sample: BaseDataElement) -> SheetRow:
        """A row of the contact sheet."""
        model = unwrapped(runner.model)
        image, batch = as_seen(model.data_preprocessor, inputs)
        maps = []
        backbone = getattr(model, 'backbone', None)
        if isinstance(backbone, Backbone):
            stages = [i for i, layers in enumerate(backbone.attention_layers()) if layers][:3]
            if stages:
                maps = cluster_maps(backbone, batch, stages)
                maps = maps[:: len(maps) // len(stages)]  # one of each stage, where there are several scales the first
        count = len(runner.visualizer.dataset_meta['classes'])
        truth, prediction = (regions(sample, kind, self.score_thr, count) for kind in ('gt', 'pred'))
        return SheetRow(image, truth, prediction, maps)
