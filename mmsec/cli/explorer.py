"""What ``python -m mmsec explore`` shows: a block of a backbone that looks at an image, as it is and otherwise."""

import inspect
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmsec.cli.inference import build_predictor
from mmsec.cli.weights import build_backbone, config_of_backbone
from mmsec.datasets.image_files import read_image
from mmsec.models import ViT
from mmsec.models.backbones.base import Backbone
from mmsec.models.inspection import attention_layer, inputs_of, scales_of
from mmsec.models.layers.cluster_counts import ClusterCount
from mmsec.ops.grouping import GROUPINGS
from mmsec.ops.merging import MERGINGS
from mmsec.registry import MODELS
from mmsec.visualization.clusters import ClusterMap
from mmsec.visualization.drawing import as_seen
from mmsec.visualization.exploring import attended_picture, cluster_picture, token_at

MAX_SIDE = 1024  # of what is looked at, so that an answer takes seconds
_CLUSTERS = 8  # of a ViT that has none
_AFTER_BLOCK = 2  # where a method has to be told: behind the third block


# What a slider can set: option, least and greatest value, where it starts, and the step.
COUNTS = {'num_clusters': (1, 128, 32, 1), 'cluster_size': (1, 1024, 98, 1)}
STRENGTHS = {  # of each merging that has one
    'ALGM': ('threshold', 0, 1, 0.88, 0.01),
    'ATC': ('keep', 0.1, 1, 0.7, 0.05),
    'AiluRus': ('keep', 0.1, 1, 0.5, 0.05),
    'CubistMerge': ('r', 0, 0.5, 0.1, 0.05),
    'Expedit': ('size', 0.05, 1, 0.5, 0.05),
    'PiToMe': ('ratio', 0.5, 1, 0.925, 0.025),
    'ToMe': ('r', 0, 64, 8, 1),
    'ToMeSD': ('ratio', 0, 0.75, 0.5, 0.05),
}


class Shown(NamedTuple):
    """One way of grouping or merging: what it is, its clusters, what a token attends to, and that in words."""

    name: str
    clusters: np.ndarray
    attended: np.ndarray
    words: str


class Explorer:
    """A model to look into.

    Args:
        cfg (Config, optional): With a backbone of mmsec. Default: None, SecViT-T.
        checkpoint (str, optional): Its weights, published or trained. Default: None, random ones.
        device (str): Such as 'cpu' or 'cuda:0'.

    Raises:
        InputError: If the backbone is none of mmsec's, or the checkpoint does not fit.
    """

    def __init__(self, cfg: Config | None, checkpoint: str | None, device: str) -> None:
        cfg = cfg or config_of_backbone('mmsec.SecViT', 'tiny')
        self.device = device
        predictor = build_predictor(cfg, checkpoint, device) if checkpoint else None
        self.predict = predictor.predict if predictor else None
        of_model = predictor.model.backbone if predictor else None
        self.backbone = of_model if isinstance(of_model, Backbone) else build_backbone(cfg, checkpoint)
        self.backbone.to(device).eval()
        self.part = dict(cfg.model.backbone, init_cfg=None)
        self.preprocessor = MODELS.build(cfg.model.data_preprocessor).to(device)
        self.blocks = [len(layers) for layers in self.backbone.attention_layers()]
        self.groups = 'grouping' in inspect.signature(type(self.backbone)).parameters
        weights = f'weights of {Path(checkpoint).name}' if checkpoint else 'random weights'
        arch = self.part.get('arch')
        self.title = f'{type(self.backbone).__name__}{f" {arch}" if isinstance(arch, str) else ""}, {weights}'
        self.folder = TemporaryDirectory()  # for images that are shrunk
        self.read = lru_cache(2)(self._read)
        self.inputs = lru_cache(4)(self._inputs)
        self.other = lru_cache(2)(self._other)

    @property
    def others(self) -> list[str]:
        """What can stand beside the model: groupings, and mergings of a ViT."""
        return sorted(GROUPINGS) * self.groups + sorted(MERGINGS) * isinstance(self.backbone, ViT)

    def heads(self, stage: int) -> list[str]:
        """Names of the heads of a stage from 0, or of its scales."""
        layer: Any = attention_layer(self.backbone, stage)
        return list(scales_of(self.backbone, stage)) or [f'head {i + 1}' for i in range(layer.num_heads)]

    def _read(self, path: Path) -> tuple[Path, np.ndarray, Tensor]:
        """A file, which is a smaller one where the image is large, the image as the model sees it, and its input."""
        image = read_image(path, self.backbone.in_channels)
        if max(image.shape[:2]) > MAX_SIDE:
            height, width = image.shape[:2]
            scale = MAX_SIDE / max(height, width)
            size = max(round(width * scale), 1), max(round(height * scale), 1)
            image = np.atleast_3d(mmcv.imresize(image, size, interpolation='area'))
            path = Path(self.folder.name, f'{abs(hash(path))}.png')
            mmcv.imwrite(image, str(path))
        sample = {'inputs': torch.from_numpy(image).permute(2, 0, 1), 'data_samples': BaseDataElement()}
        return path, *as_seen(self.preprocessor, sample)

    def _other(self, name: str, clusters: int | None, strength: float | None) -> Backbone:
        """The backbone with another grouping or merging, or number of clusters, on the same weights."""
        part, vit = dict(self.part), isinstance(self.backbone, ViT)
        if name in MERGINGS:
            merging: dict[str, Any] = {'type': name}
            if 'after_block' in inspect.signature(MERGINGS[name]).parameters:
                merging['after_block'] = min(_AFTER_BLOCK, len(self.blocks) - 1)
            if name in STRENGTHS:
                option, *_, start, step = STRENGTHS[name]
                value = start if strength is None else strength
                merging[option] = int(value) if step == 1 else value
            part['merging'] = merging
        elif name:
            part['grouping'] = {'type': name}
            if vit:
                part |= {'window_size': 0, 'merging': None, 'num_clusters': part.get('num_clusters') or _CLUSTERS}
        if clusters and not vit:
            part |= {'num_clusters': [clusters] * len(self.backbone.stage_strides), 'cluster_size': None}
        elif clusters and part.get('grouping'):
            part['num_clusters'] = clusters
        backbone = MODELS.build(part)
        backbone.load_state_dict(self.backbone.state_dict(), assign=True)
        return backbone.to(self.device).eval()

    def _inputs(self, path: Path, stage: int, block: int, *other: Any) -> tuple:
        """What the layer of a block is given, in the model or in another one."""
        backbone = self.other(*other) if other else self.backbone
        return inputs_of(backbone, self.read(path)[2], [attention_layer(backbone, stage, block)])[0]

    @torch.no_grad()
    def look(
        self,
        path: Path,
        stage: int,
        block: int,
        head: int,
        place: tuple[float, float] = (0.5, 0.5),
        other: str = '',
        amount: tuple[str, float] | None = None,
    ) -> list[Shown]:
        """Look at one block. Another grouping gets the tokens that the block has in the model.

        Args:
            path (Path): Of an image.
            stage (int): From 0; a block of a ViT.
            block (int): Of the stage, from 0.
            head (int): Head, or scale, from 0.
            place (tuple[float, float]): A place in the image, as shares of its width and height. Default: the middle.
            other (str): One of :attr:`others`, to stand beside the model. Default: '', none.
            amount (tuple[str, float], optional): A key of :data:`COUNTS` and a number of clusters or tokens, for both;
                or the option in :data:`STRENGTHS` of the merging and its value. Default: None, as the model has it.

        Returns:
            list[Shown]: Of the model, and of ``other``.

        Raises:
            InputError: If the file is no image that the model takes.
            ValueError: If there is no such stage or block, or the backbone cannot do what is asked.
        """
        _, image, batch = self.read(path)
        clusters = strength = None
        if amount and other in MERGINGS:
            strength = amount[1]
        elif amount and self.groups:
            height, width = (-(-side // self.backbone.stage_strides[stage]) for side in batch.shape[2:])
            clusters = ClusterCount(int(amount[1]), amount[0] == 'cluster_size').of(height * width)
        shown = []
        for key in [('', clusters, None), (other, clusters, strength)][: 2 if other else 1]:
            backbone = self.other(*key) if any(key) else self.backbone
            layer: Any = attention_layer(backbone, stage, block)
            merges = key[0] in MERGINGS or (key[0] and self.part.get('merging'))
            given = self.inputs(path, stage, block, *(key if merges else ()))
            shown.append(self._shown(layer, given, image, stage, head, place))
        return shown

    def _shown(
        self, layer: Any, inputs: tuple, image: np.ndarray, stage: int, head: int, place: tuple[float, float]
    ) -> Shown:
        """Draw a layer and put it into words."""
        ids, scores, _ = layer.clusters(*inputs)
        of_head = head if ids.shape[1] > 1 else 0  # all heads may share their clusters
        scores = scores[0, of_head].cpu() if scores is not None else None
        each = ClusterMap('', self.backbone.stage_strides[stage], ids[0, of_head].cpu(), scores)
        token = token_at(each, image, place)
        shares = layer.attended(token, *inputs) if hasattr(layer, 'attended') else None
        total, left = each.ids.numel(), len(each.ids.unique())
        with_it = int((each.ids == each.ids.flatten()[token]).sum())
        if shares is None:
            merge = getattr(layer, 'merge', None)
            name = type(merge.method if merge else self.backbone).__name__
            merged = f'merged with {with_it - 1} more' if with_it > 1 else 'merged with none'
            words = f'{total} tokens become {left}. The framed token is {merged}.'
        else:
            shares = shares[0, head].cpu()
            grouping = getattr(layer, 'attn', layer).grouping
            name = type(grouping).__name__ if left > 1 and grouping else 'all tokens'
            half = int((shares.flatten().sort(descending=True)[0].cumsum(0) < 0.5).sum()) + 1
            words = (
                f'{left} cluster{"s" * (left > 1)} of {total} tokens. The framed token attends to {with_it}, and half '
                f'of its attention is on {half}.'
            )
        return Shown(name, cluster_picture(image, each, token), attended_picture(image, each, token, shares), words)
