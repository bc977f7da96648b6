"""Every shipped config is parsed, built in its host, shrunk, trained one step, and asked for predictions."""

import copy
import json
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

from mmsec.cli.config import load_config, revert_sync_bn
from mmsec.cli.heads import check_channels
from mmsec.models import ClusTR, SecViT
from tests import torchvision_apart  # noqa: F401
from tests.conftest import ROOT, shrink_model

FOLDER = ROOT / 'configs'
CONFIGS = sorted(path.relative_to(FOLDER) for path in FOLDER.rglob('*.py') if '_base_' not in path.parts)
SECVIT = [name for name in CONFIGS if name.stem.startswith('secvit_')]
CLUSTR = [name for name in CONFIGS if name.stem.startswith('clustr_')]
CLASSIFIERS = [name for name in CONFIGS if name.parts[0] == 'mmpretrain']
SMALL = [name for name in CONFIGS if name.stem.endswith('shapes')]  # for a CPU
DENSE = [name for name in SECVIT + CLUSTR if name not in CLASSIFIERS and name not in SMALL]
# What README and other people's configs name; there may be more.
NAMES = {
    'mmdet': {f'secvit_{size}_maskrcnn' for size in 'tsbl'}
    | {f'secvit_{size}_{method}_3x' for size in 'tsb' for method in ('maskrcnn', 'cascade_maskrcnn')}
    | {'secvit_t_maskrcnn_shapes', 'clustr/clustr_b1_maskrcnn_shapes'}
    | {f'secvit_{size}_{method}' for size in 'tsbl' for method in ('mask2former', 'dino')}
    | {f'secvit_t_{method}' for method in ('retinanet', 'rtmdet_ins', 'mask2former_shapes')}
    | {f'secvit_t_maskrcnn_{data}' for data in ('nuclei', 'cityscapes')}
    | {f'clustr/clustr_b{size}_{method}' for size in '123' for method in ('maskrcnn', 'cascade_maskrcnn_3x')},
    'mmseg': {f'secvit_{size}_upernet' for size in 'tsbl'}
    | {'secvit_t_upernet_shapes', 'clustr/clustr_b1_upernet_shapes'}
    | {f'secvit_{size}_mask2former_semantic' for size in 'tsbl'}
    | {f'secvit_t_{method}' for method in ('semanticfpn', 'segformer', 'semanticfpn_shapes')}
    | {f'secvit_t_upernet_{data}' for data in ('camvid', 'cityscapes', 'voc2012')}
    | {f'clustr/clustr_b{size}_{method}' for size in '123' for method in ('upernet', 'semanticfpn')},
    'mmpretrain': {f'secvit_{size}_in1k' for size in 'tsbl'} | {'secvit_t_finetune'},
}
# SecViT with the heads of the first configs, on COCO and ADE20K.
USUAL = [name for name in SECVIT if re.fullmatch(r'secvit_[tsbl]_((cascade_)?maskrcnn(_3x)?|upernet)', name.stem)]
# Rate, weight decay, factor for the backbone, for the head, clipping and batch of the other heads.
OPTIMIZERS = {
    'mask2former': (1e-4, 0.05, 0.1, 1, 0.01, 16),
    'dino': (1e-4, 1e-4, 0.1, 1, 0.1, 16),
    'retinanet': (4e-4, 1e-4, 1, 1, 35, 16),
    'rtmdet_ins': (1e-3, 0.05, 1, 1, 35, 128),
    'mask2former_semantic': (1e-4, 0.05, 0.1, 1, 0.01, 16),
    'semanticfpn': (1e-4, 1e-4, 1, 1, 35, 16),
    'segformer': (6e-5, 0.01, 1, 10, 35, 16),
}
HEADS = [name for name in SECVIT if name.stem.split('_', 2)[2] in OPTIMIZERS]
ARCH = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}
DROP_PATH = {'t': 0.1, 's': 0.15, 'b': 0.4, 'l': 0.5}


def load(name: Path) -> Config:
    cfg = Config.fromfile(FOLDER / name)
    if cfg.default_scope == 'mmpretrain':
        pytest.importorskip('mmpretrain')
    init_default_scope(cfg.default_scope)
    return cfg


def batch(cfg: Config) -> dict:
    """Two images with one object each, as the host's data loader would give them."""
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    meta = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0), img_id=0, pad_shape=(64, 64))
    samples = []
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain.structures import DataSample

        samples = [DataSample(metainfo=meta).set_gt_label(label) for label in (0, 1)]
    elif cfg.default_scope == 'mmseg':
        from mmseg.structures import SegDataSample

        for _ in images:
            labels = torch.randint(0, cfg.model.decode_head.num_classes, (1, 64, 64))
            samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta))
    else:
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks

        mask = np.zeros((1, 64, 64), np.uint8)
        mask[:, 10:50, 8:40] = 1
        for _ in images:
            objects = InstanceData(
                bboxes=torch.tensor([[8.0, 10.0, 40.0, 50.0]]),
                labels=torch.tensor([0]),
                masks=BitmapMasks(mask, 64, 64),
            )
            samples.append(DetDataSample(gt_instances=objects, metainfo=meta))
    return dict(inputs=images, data_samples=samples)


def test_promised_configs_are_where_they_were():
    promised = {Path(host, f'{stem}.py') for host, stems in NAMES.items() for stem in stems}
    assert promised - set(CONFIGS) == set()


def test_no_two_configs_share_a_work_dir():
    stems = Counter(name.stem for name in CONFIGS)
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_no_base_file_is_left_over():
    used = {Path(used).resolve() for name in CONFIGS for used in bases(FOLDER / name)}
    assert {path.resolve() for path in FOLDER.rglob('_base_/**/*.py')} - used == set()


def bases(path: Path) -> set[Path]:
    """The files that a config is made of, at any depth."""
    found = {(path.parent / each).resolve() for each in Config._get_base_files(str(path))}
    return found.union(*(bases(each) for each in found))


def row_of(name: Path) -> str:
    """The line of a config in the table of the README beside it."""
    lines = (FOLDER / name.parent / 'README.md').read_text().splitlines()
    (row,) = (line for line in lines if line.startswith('|') and f'({name.name})' in line)
    return row


@pytest.mark.parametrize('name', CONFIGS, ids=str)
def test_the_readme_beside_a_config_has_a_row_for_it(name):
    assert f'[{name.stem}]({name.name})' in row_of(name)


@pytest.mark.parametrize('name', SECVIT + CLUSTR, ids=str)
def test_the_rows_say_what_the_configs_hold(name):
    cfg, row = load(name), row_of(name)
    assert f'| {cfg.model.backbone.arch} | {cfg.model.backbone.drop_path_rate:g} |' in row
    length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    unit = 'epochs' if 'max_epochs' in cfg.train_cfg else 'iterations'
    assert f'| {length} {unit} |'.replace('000 iter', 'k iter') in row


@pytest.mark.parametrize('name', CONFIGS, ids=str)
def test_trains_a_step_and_predicts(name):
    cfg = load(name)
    shrink_model(cfg)
    revert_sync_bn(cfg, 'none')
    model = MODELS.build(cfg.model)
    model.init_weights()
    data = batch(cfg)
    model.train()
    losses = model(**model.data_preprocessor(copy.deepcopy(data), training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert any(p.grad.any() for module in model.backbone.parts()[0] for p in module.parameters())
    model.eval()
    with torch.no_grad():
        predictions = model.test_step(copy.deepcopy(data))
    assert len(predictions) == 2
    if cfg.default_scope == 'mmpretrain':
        assert predictions[0].pred_score.shape == (cfg.model.head.num_classes,)
    elif cfg.default_scope == 'mmseg':
        assert predictions[0].pred_sem_seg.data.shape == (1, 64, 64)
    else:
        found = predictions[0].pred_instances
        assert len(found.bboxes) == len(found.labels) == len(found.scores)
        assert ('masks' in found) == ('segm' in cfg.val_evaluator.metric)
        assert 'masks' not in found or found.masks.shape == (len(found), 64, 64)


@pytest.mark.parametrize('name', USUAL, ids=str)
def test_sizes_weights_and_schedule_are_the_promised_ones(name):
    cfg = load(name)
    size = name.stem.split('_')[1]
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.drop_path_rate) == (ARCH[size], DROP_PATH[size])
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=f'checkpoints/secvit_{ARCH[size]}.pth')
    assert cfg.custom_imports == dict(
        imports=['mmsec.models', 'mmsec.engine', 'mmsec.datasets'], allow_failed_imports=False
    )
    assert dict(type='mmsec.IterationSeedHook') in cfg.custom_hooks  # or all processes draw the same drop path
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.optim_wrapper.paramwise_cfg == dict(norm_decay_mult=0.0)
    optimizer = cfg.optim_wrapper.optimizer
    dims = list(SecViT.arch_zoo[ARCH[size]]['embed_dims'])
    if cfg.default_scope == 'mmdet':
        assert backbone.norm_eval is True
        assert cfg.model.neck.in_channels == dims
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.05)
        epochs, steps = (36, [27, 33]) if name.stem.endswith('3x') else (12, [8, 11])
        assert cfg.train_cfg.max_epochs == epochs
        assert cfg.param_scheduler[-1].milestones == steps
        assert cfg.param_scheduler[-1].end == epochs
        crops = any(step['type'] == 'RandomChoice' for step in cfg.train_dataloader.dataset.pipeline)
        assert crops == name.stem.endswith('3x')
    else:
        assert backbone.norm_cfg.type == cfg.model.decode_head.norm_cfg.type == 'SyncBN'
        assert cfg.model.decode_head.in_channels == dims
        assert cfg.model.auxiliary_head.in_channels == dims[2]
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 6e-5, 0.01)
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 160_000
        assert cfg.model.test_cfg.mode == 'whole'
        assert cfg.val_dataloader.batch_size == 1


@pytest.mark.parametrize('name', HEADS, ids=str)
def test_other_heads_have_the_sizes_weights_and_optimizers_that_are_promised(name):
    cfg = load(name)
    _, size, method = name.stem.split('_', 2)
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.drop_path_rate) == (ARCH[size], DROP_PATH[size])
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=f'checkpoints/secvit_{ARCH[size]}.pth')
    check_channels(cfg)
    wrapper = cfg.optim_wrapper
    factors = {key: value.get('lr_mult', 1) for key, value in wrapper.paramwise_cfg.get('custom_keys', {}).items()}
    given = wrapper.optimizer.lr, wrapper.optimizer.weight_decay, factors.get('backbone', 1), factors.get('head', 1)
    assert (*given, wrapper.clip_grad.max_norm, cfg.auto_scale_lr.base_batch_size) == OPTIMIZERS[method]
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size
    assert wrapper.paramwise_cfg.norm_decay_mult == 0
    last = cfg.param_scheduler[-1]
    assert last.end == (cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters)
    if method in ('mask2former', 'dino'):  # as on Swin-L
        assert cfg.train_cfg.max_epochs == {('mask2former', True): 100, ('dino', True): 36}.get(
            (method, size == 'l'), 50 if method == 'mask2former' else 12
        )


@pytest.mark.parametrize('name', [n for n in HEADS if n.stem.split('_')[1] in 'tl'], ids=str)
def test_a_picture_passes_the_pipelines_of_the_other_heads(tmp_path, name):
    cfg = load(name)
    image = tmp_path / 'images/a.jpg'
    image.parent.mkdir()
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    if cfg.default_scope == 'mmdet':
        corners = [20, 20, 100, 20, 100, 70, 20, 70]
        box = dict(bbox=[20, 20, 80, 50], area=4000, segmentation=[corners], iscrowd=0)
        annotations = tmp_path / 'a.json'
        content = dict(
            images=[dict(id=1, file_name='a.jpg', height=90, width=120)],
            annotations=[dict(box, id=1, image_id=1, category_id=1)],
            categories=[dict(id=1, name='person')],
        )
        annotations.write_text(json.dumps(content))
        paths = dict(data_root=str(tmp_path), ann_file='a.json', data_prefix=dict(img='images/'))
    else:
        from mmseg.datasets.transforms import RandomCrop

        (tmp_path / 'labels').mkdir()
        cv2.imwrite(str(tmp_path / 'labels/a.png'), np.arange(90 * 120).reshape(90, 120).astype(np.uint8))
        paths = dict(data_root=str(tmp_path), data_prefix=dict(img_path='images', seg_map_path='labels'))
    for split in ('train', 'val'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset | paths)
        sample = dataset[0]
        assert sample['inputs'].shape[0] == 3
        if cfg.default_scope == 'mmdet':
            objects = sample['data_samples'].gt_instances
            assert ('masks' in objects) == ('segm' in cfg.val_evaluator.metric)
        elif split == 'train':
            (crop,) = (step for step in dataset.pipeline.transforms if isinstance(step, RandomCrop))
            assert crop.crop_size == cfg.model.data_preprocessor.size  # to which smaller ones are padded
            assert sample['data_samples'].gt_sem_seg.shape == sample['inputs'].shape[1:]


@pytest.mark.parametrize('name', [n for n in DENSE if n in CLUSTR], ids=str)
def test_clustr_has_the_sizes_weights_and_schedule_that_are_promised(name):
    cfg = load(name)
    arch = name.stem.split('_')[1]
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.drop_path_rate) == (arch, 0.3 if arch == 'b3' else 0.1)
    assert backbone.region_size == 3136
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=f'checkpoints/clustr_{arch}.pth')
    optimizer = cfg.optim_wrapper.optimizer
    dims = list(ClusTR.arch_zoo[arch]['embed_dims'])
    if cfg.default_scope == 'mmdet':
        assert cfg.model.neck.in_channels == dims
        assert (optimizer.lr, optimizer.weight_decay) == (1e-4, 0.05)
        assert cfg.train_cfg.max_epochs == (36 if name.stem.endswith('3x') else 12)
    elif name.stem.endswith('upernet'):
        assert cfg.model.decode_head.in_channels == dims
        assert cfg.model.auxiliary_head.in_channels == dims[2]
        assert (optimizer.lr, optimizer.weight_decay) == (6e-5, 0.01)
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 160_000
    else:
        assert cfg.model.neck.in_channels == dims
        assert cfg.model.auxiliary_head is None
        assert (optimizer.lr, optimizer.weight_decay) == (1e-4, 1e-4)
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 80_000
        assert cfg.param_scheduler[-1].power == 0.9


# What is published: parameters with the classifier, for ClusTR and ViT those of ours.
PARAMETERS = {
    'secvit_t_in1k': 14_981_800,
    'secvit_s_in1k': 26_776_104,
    'secvit_b_in1k': 54_682_776,
    'secvit_l_in1k': 96_495_096,
    'clustr_b1_in1k': 11_169_417 + 513_000,
    'clustr_b2_in1k': 22_177_941 + 513_000,
    'clustr_b3_in1k': 39_733_210 + 513_000,
    'vit_t_in1k': 5_717_416 - 192,  # DeiT's, less the position of the class token, which is in the token here
    'vit_s_in1k': 22_050_664 - 384,
    'vit_b_in1k': 86_567_656 - 768,
}


@pytest.mark.parametrize('name', [n for n in CLASSIFIERS if n.stem.endswith('_in1k')], ids=str)
def test_classifiers_have_the_published_size_and_recipe(name):
    cfg = load(name)
    assert cfg.model.backbone.get('init_cfg') is None
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name.stem]
    if name in SECVIT:
        size = name.stem.split('_')[1]
        assert (cfg.model.backbone.arch, cfg.model.backbone.drop_path_rate) == (ARCH[size], DROP_PATH[size])
    optimizer, world = cfg.optim_wrapper.optimizer, 8
    batch = cfg.train_dataloader.batch_size * world
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 5e-4 * batch / 512, 0.05)
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, warm_up.start_factor * optimizer.lr) == (5, pytest.approx(1e-6))
    assert (cosine.end, cosine.eta_min_ratio * optimizer.lr) == (300, pytest.approx(1e-5))
    assert cfg.train_cfg.max_epochs == 300
    assert [each.type for each in cfg.model.train_cfg.augments] == ['Mixup', 'CutMix']
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
    assert cfg.custom_hooks[-1] == dict(
        type='mmengine.EMAHook', momentum=pytest.approx(1 - 0.99996), update_buffers=True
    )


def test_weight_decay_spares_norms_in_sequentials():
    cfg = load(Path('mmdet/secvit_t_maskrcnn.py'))
    from mmengine.optim import build_optim_wrapper

    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    decay = {
        id(p): group['weight_decay']
        for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        for p in group['params']
    }
    backbone = model.backbone
    assert decay[id(backbone.patch_embed.proj[1].weight)] == 0
    assert decay[id(backbone.stages[0].blocks[0].norm1.bias)] == 0
    assert decay[id(backbone.downsamples[0].norm.weight)] == 0
    assert decay[id(backbone.patch_embed.proj[0].weight)] == 0.05


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.name.startswith('vit_')], ids=str)
def test_every_vit_that_trains_without_merging_can_be_tested_with_it(name):
    path, option = str(ROOT / 'configs' / name), {'model.backbone.merging.type': 'PiToMe'}
    cfg = load_config(path)
    if cfg.model.backbone.merging:
        option['model.backbone.merging._delete_'] = True
    assert load_config(path, option).model.backbone.merging == dict(type='PiToMe')


def test_a_misspelt_backbone_option_fails():
    cfg = load(Path('mmdet/secvit_t_maskrcnn.py'))
    cfg.model.backbone.cluster_sizes = 98
    with pytest.raises(TypeError, match="unexpected keyword argument 'cluster_sizes'"):
        MODELS.build(cfg.model)


@pytest.mark.parametrize('name', [n for n in SECVIT + CLUSTR if n.stem.split('_')[1] not in ('t', 'b1')], ids=str)
def test_children_hold_differences_only(name):
    assert len((FOLDER / name).read_text().splitlines()) <= 15


@pytest.mark.parametrize('shape', [(7, 9), (1, 1), (1, 9000), (2, 9000), (90000, 2)])
def test_images_of_odd_shapes_pass_the_training_pipeline_or_are_named(tmp_path, log, shape):
    cfg = load(Path('mmseg/secvit_t_upernet.py'))
    image, label = tmp_path / 'i.jpg', tmp_path / 'l.png'
    cv2.imwrite(str(image), np.full((*shape, 3), 9, np.uint8))
    cv2.imwrite(str(label), np.ones(shape, np.uint8))
    pipeline = Compose(cfg.train_dataloader.dataset.pipeline)
    results = {'img_path': str(image), 'seg_map_path': str(label), 'seg_fields': [], 'reduce_zero_label': True}
    sample = pipeline(results)  # at a random size, at which a flat image may have no pixel left
    assert (sample is None) == any(line.startswith('sample left out') for line in log)
    assert sample is not None or shape != (7, 9)
