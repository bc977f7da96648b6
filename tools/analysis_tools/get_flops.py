"""Parameters and multiply-adds of a config's model, part by part; no data set and no weights are needed."""

import argparse

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmsec.cli.config import load_config, revert_sync_bn
from mmsec.cli.flops import count_kinds
from mmsec.engine.processes import run
from mmsec.models.inspection import image_channels

PARTS = (
    *('backbone', 'neck', 'encoder', 'decoder', 'rpn_head', 'roi_head', 'bbox_head', 'panoptic_head'),
    *('decode_head', 'auxiliary_head', 'head'),
)
SHAPES = {'mmdet': (800, 1344), 'mmseg': (512, 512), 'mmpretrain': (224, 224)}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape', type=int, nargs=2, metavar=('H', 'W'), help='default: 800 1344, mmseg 512 512, mmpretrain 224 224'
    )
    args = parser.parse_args()
    if args.shape and min(args.shape) < 32:
        parser.error(f'--shape must be at least 32 32, got {args.shape[0]} {args.shape[1]}')
    return args


def built(path: str) -> tuple[Config, nn.Module]:
    """A config and its model, in evaluation mode, with work for heads of proposals."""
    cfg = load_config(path)
    revert_sync_bn(cfg, 'none')
    for stage in rcnn_tests(cfg):
        stage.score_thr = 0.0  # random weights find nothing, and the mask head would have no work
    return cfg, MODELS.build(cfg.model).eval()


def rcnn_tests(cfg: Config) -> list[ConfigDict]:
    """How each stage of a detector with proposals is tested; none where a model has no proposals."""
    rcnn = (cfg.model.get('test_cfg') or {}).get('rcnn') or []
    return rcnn if isinstance(rcnn, list) else [rcnn]


def predict(model: nn.Module, images: Tensor) -> None:
    """Let a detector, segmenter or classifier predict on raw images."""
    if hasattr(model, 'head'):
        model(images, mode='tensor')
        return
    size = tuple(images.shape[-2:])
    info = dict(img_shape=size, ori_shape=size, batch_input_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
    if hasattr(model, 'decode_head'):
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmdet.structures import DetDataSample as Sample
    model(images, [Sample(metainfo=info)], mode='predict')


def rows(model: nn.Module, counts: dict[str, int]) -> list[tuple[str, int, int]]:
    """(part, parameters, multiply-adds) of the backbone's parts, then of the neck and the heads."""
    names = []
    for part in PARTS:
        if not hasattr(model, part):
            continue
        names.append(part)
        if part == 'backbone':
            stages = [name for name, child in model.backbone.named_children() if isinstance(child, nn.ModuleList)]
            for name, child in model.backbone.named_children():
                inner = [f'{name}.{i}' for i in range(len(child))] if name in stages else [name]
                names += [f'backbone.{each}' for each in inner]
        if part == 'roi_head':
            names += [f'roi_head.{name}' for name, _ in model.roi_head.named_children() if name.endswith('_head')]
    result = []
    for name in names:
        parameters = sum(p.numel() for p in model.get_submodule(name).parameters())
        inside = [
            value for key, value in counts.items() if key.startswith(f'{name}.') and '.' not in key[len(name) + 1 :]
        ]
        result.append((name, parameters, counts.get(name, sum(inside))))
    return result


def main() -> None:
    """Count and print."""
    args = parse_args()
    cfg, model = built(args.config)
    shape = tuple(args.shape or SHAPES[cfg.default_scope])
    images = torch.rand(1, image_channels(model), *shape)
    kinds = count_kinds(model, lambda: predict(model, images))
    counts = {name: sum(each.values()) for name, each in kinds.items()}
    print(f'{args.config}, {"x".join(map(str, images.shape))}')
    print(f'{"":<28} {"parameters":>14} {"multiply-adds":>16}')
    total = sum(p.numel() for p in model.parameters())
    for name, parameters, adds in [*rows(model, counts), ('whole model', total, counts[''])]:
        indent = '  ' * name.count('.')
        print(f'{indent + name:<28} {parameters / 1e6:>12.2f} M {adds / 1e9:>14.2f} G')
    apart = [f'{kind} {adds / 1e9:.2f} G' for kind, adds in kinds['backbone'].items() if adds]
    print(f'backbone: {", ".join(apart)}')
    print(
        'Products of matrices, convolutions, attention and distances between tokens that are clustered are counted, '
        'one multiply-add each; norms and sums are not.'
    )
    for stage in rcnn_tests(cfg)[-1:]:
        proposals, detections = cfg.model.test_cfg.rpn.max_per_img, stage.max_per_img
        print(f'The heads in roi_head ran on up to {proposals} proposals and {detections} detections.')


if __name__ == '__main__':
    run(main)
