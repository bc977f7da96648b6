"""Every shipped config is parsed, built in its host, shrunk, trained one step, and asked for predictions."""

import copy
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmsec import compat
from mmsec.cli import torchvision_apart  # noqa: F401
from mmsec.cli.config import load_config, revert_sync_bn
from tests.conftest import ROOT, shrink_model

FOLDER = ROOT / 'configs'
HOSTS = ('mmdet', 'mmseg', 'mmpretrain')  # tests/test_other_hosts.py has the others
CONFIGS = sorted(path.relative_to(FOLDER) for host in HOSTS for path in FOLDER.glob(f'{host}/[!_]*/*.py'))
LINKS = sorted(path.relative_to(FOLDER) for path in FOLDER.glob('[!_]*/*.py'))
SECVIT = [name for name in CONFIGS if name.stem.startswith('secvit_')]
CLUSTR = [name for name in CONFIGS if name.stem.startswith('clustr_')]
FIXED = {  # paths that README and other people's configs name
    *(f'mmdet/secvit_{size}_maskrcnn' for size in 'tsbl'),
    *(f'mmdet/secvit_{size}_{head}_3x' for size in 'tsb' for head in ('maskrcnn', 'cascade_maskrcnn')),
    *(f'mmdet/secvit_t_maskrcnn_{data}' for data in ('shapes', 'nuclei')),
    *(f'mmseg/secvit_{size}_upernet' for size in 'tsbl'),
    *(f'mmseg/secvit_t_upernet_{data}' for data in ('shapes', 'camvid')),
}
# Rate, weight decay, factor for the backbone, for the head, clipping, batch, epochs or iterations.
RECIPES = {
    'maskrcnn': (1e-4, 0.05, 1, 1, 35, 16, 12),
    'maskrcnn_3x': (1e-4, 0.05, 1, 1, 35, 16, 36),
    'cascade_maskrcnn_3x': (1e-4, 0.05, 1, 1, 35, 16, 36),
    'mask2former': (1e-4, 0.05, 0.1, 1, 0.01, 16, 50),
    'dino': (1e-4, 1e-4, 0.1, 1, 0.1, 16, 12),
    'retinanet': (4e-4, 1e-4, 1, 1, 35, 16, 12),
    'rtmdet_ins': (1e-3, 0.05, 1, 1, 35, 128, 100),
    'upernet': (6e-5, 0.01, 1, 1, 35, 16, 160_000),
    'mask2former_semantic': (1e-4, 0.05, 0.1, 1, 0.01, 16, 160_000),
    'semanticfpn': (1e-4, 1e-4, 1, 1, 35, 16, 80_000),
    'segformer': (6e-5, 0.01, 1, 10, 35, 16, 160_000),
}
ON_LARGE = {'mask2former': 100, 'dino': 36}  # epochs, as on Swin-L
DENSE = [name for name in SECVIT + CLUSTR if name.stem.split('_', 2)[2] in RECIPES]
ARCH = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}
DROP_PATH = {'t': 0.1, 's': 0.15, 'b': 0.4, 'l': 0.5, 'b1': 0.1, 'b2': 0.1, 'b3': 0.3}


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


def test_the_fixed_paths_are_links():
    assert {str(name.with_suffix('')) for name in LINKS} == FIXED
    for name in LINKS:
        assert (FOLDER / name).read_text() == f"_base_ = './secvit/{name.name}'\n"
        assert name.parent / 'secvit' / name.name in CONFIGS


def test_no_two_configs_share_a_work_dir():
    stems = Counter(name.stem for name in CONFIGS)
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_no_base_file_is_left_over():
    used = {path for name in CONFIGS for path in bases(FOLDER / name)}
    assert set(FOLDER.rglob('_base_/**/*.py')) - used == set()


def bases(path: Path) -> set[Path]:
    """The files that a config is made of, at any depth."""
    found = {(path.parent / each).resolve() for each in Config._get_base_files(str(path))}
    return found.union(*(bases(each) for each in found))


@pytest.mark.parametrize('name', CONFIGS, ids=str)
def test_the_readme_beside_a_config_has_a_row_that_says_what_it_holds(name):
    cfg, lines = load(name), (FOLDER / name.parent / 'README.md').read_text().splitlines()
    (row,) = (line for line in lines if line.startswith(f'| [{name.stem}]({name.name}) |'))
    if name in SECVIT + CLUSTR:
        assert f'| {cfg.model.backbone.arch} | {cfg.model.backbone.drop_path_rate:g} |' in row
        length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
        unit = 'epochs' if 'max_epochs' in cfg.train_cfg else 'iterations'
        assert f'| {length} {unit} |'.replace('000 iter', 'k iter') in row


@pytest.mark.parametrize('name', CONFIGS, ids=str)
def test_trains_a_step_and_predicts(name):
    if '_dino' in name.stem and not compat.OPERATORS:
        pytest.skip("stock DINO's positions are for 256 channels, a shrunk one has fewer")
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
    learns = any(p.requires_grad and p.grad.any() for each in model.backbone.parts()[0] for p in each.parameters())
    assert learns == (cfg.model.backbone.get('frozen_stages', -1) < 0)
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


@pytest.mark.parametrize('name', DENSE, ids=str)
def test_sizes_weights_and_schedules_are_the_promised_ones(name):
    cfg = load(name)
    family, size, head = name.stem.split('_', 2)
    backbone, arch = cfg.model.backbone, ARCH.get(size, size)
    assert (backbone.arch, backbone.drop_path_rate) == (arch, DROP_PATH[size])
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=f'checkpoints/{family}_{arch}.pth')
    assert family == 'secvit' or backbone.region_size == 3136
    wrapper, last = cfg.optim_wrapper, cfg.param_scheduler[-1]
    factors = {key: value.get('lr_mult', 1) for key, value in wrapper.paramwise_cfg.get('custom_keys', {}).items()}
    given = wrapper.optimizer.lr, wrapper.optimizer.weight_decay, factors.get('backbone', 1), factors.get('head', 1)
    length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    *wanted, usual = RECIPES[head]
    assert [*given, wrapper.clip_grad.max_norm, cfg.auto_scale_lr.base_batch_size] == wanted
    assert (wrapper.optimizer.type, wrapper.paramwise_cfg.norm_decay_mult) == ('AdamW', 0)
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size
    assert length == last.end == (ON_LARGE.get(head, usual) if size == 'l' else usual)
    assert cfg.custom_imports.imports[:3] == ['mmsec.models', 'mmsec.engine', 'mmsec.datasets']
    assert dict(type='mmsec.IterationSeedHook') in cfg.custom_hooks  # or all processes draw the same drop path
    if cfg.default_scope == 'mmseg':
        assert family == 'clustr' or backbone.norm_cfg.type == 'SyncBN'
        assert (cfg.model.test_cfg.mode, cfg.val_dataloader.batch_size) == ('whole', 1)
        assert last.power == (1 if head in ('upernet', 'segformer') else 0.9)
    elif 'maskrcnn' in head:
        assert last.milestones == {12: [8, 11], 36: [27, 33]}[length]
        crops = any(step['type'] == 'RandomChoice' for step in cfg.train_dataloader.dataset.pipeline)
        assert crops == head.endswith('3x')
        assert family == 'clustr' or backbone.norm_eval


@pytest.mark.parametrize('name', [n for n in DENSE if n.stem.split('_')[1] in 'tl'], ids=str)
def test_a_picture_passes_the_pipelines(tmp_path, name):
    cfg = load(name)
    image = tmp_path / 'images/a.jpg'
    image.parent.mkdir()
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    paths: dict = dict(data_root=str(tmp_path), data_prefix=dict(img_path='images', seg_map_path='labels'))
    if cfg.default_scope == 'mmdet':
        box = dict(bbox=[20, 20, 80, 50], area=4000, segmentation=[[20, 20, 100, 20, 100, 70, 20, 70]], iscrowd=0)
        content = dict(
            images=[dict(id=1, file_name='a.jpg', height=90, width=120)],
            annotations=[dict(box, id=1, image_id=1, category_id=1)],
            categories=[dict(id=1, name='person')],
        )
        (tmp_path / 'a.json').write_text(json.dumps(content))
        paths |= dict(ann_file='a.json', data_prefix=dict(img='images/'))
    else:
        (tmp_path / 'labels').mkdir()
        cv2.imwrite(str(tmp_path / 'labels/a.png'), np.arange(90 * 120).reshape(90, 120).astype(np.uint8))
    for split in ('train', 'val'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset | paths)
        sample = dataset[0]
        assert sample['inputs'].shape[0] == 3
        if cfg.default_scope == 'mmdet':
            objects = sample['data_samples'].gt_instances
            assert ('masks' in objects) == ('segm' in cfg.val_evaluator.metric)
        elif split == 'train':
            (size,) = (step.crop_size for step in dataset.pipeline.transforms if hasattr(step, 'crop_size'))
            assert size == cfg.model.data_preprocessor.size  # to which smaller ones are padded
            assert sample['data_samples'].gt_sem_seg.shape == sample['inputs'].shape[1:]


# What is published: parameters with the classifier, for ClusTR and ViT those of ours.
PARAMETERS = {
    'secvit_t': 14_981_800,
    'secvit_s': 26_776_104,
    'secvit_b': 54_682_776,
    'secvit_l': 96_495_096,
    'clustr_b1': 11_169_417 + 513_000,
    'clustr_b2': 22_177_941 + 513_000,
    'clustr_b3': 39_733_210 + 513_000,
    'vit_t': 5_717_416 - 192,  # DeiT's, less the position of the class token, which is in the token here
    'vit_s': 22_050_664 - 384,
    'vit_b': 86_567_656 - 768,
}


@pytest.mark.parametrize('name', [n for n in CONFIGS if n.stem.endswith('_in1k')], ids=str)
def test_classifiers_have_the_published_size_and_recipe(name):
    cfg = load(name)
    assert cfg.model.backbone.get('init_cfg') is None
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name.stem.removesuffix('_classifier_in1k')]
    if name in SECVIT:
        size = name.stem.split('_')[1]
        assert (cfg.model.backbone.arch, cfg.model.backbone.drop_path_rate) == (ARCH[size], DROP_PATH[size])
    optimizer = cfg.optim_wrapper.optimizer
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 1024
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 5e-4 * 1024 / 512, 0.05)
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, warm_up.start_factor * optimizer.lr) == (5, pytest.approx(1e-6))
    assert (cosine.end, cosine.eta_min_ratio * optimizer.lr) == (300, pytest.approx(1e-5))
    assert cfg.train_cfg.max_epochs == 300
    assert [each.type for each in cfg.model.train_cfg.augments] == ['Mixup', 'CutMix']
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
    average = dict(type='mmengine.EMAHook', momentum=pytest.approx(1 - 0.99996), update_buffers=True)
    assert cfg.custom_hooks[-1] == average


def test_weight_decay_spares_norms_in_sequentials():
    cfg = load(Path('mmdet/secvit_t_maskrcnn.py'))
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    spared = {id(p) for group in groups if group['weight_decay'] == 0 for p in group['params']}
    layers = list(model.backbone.modules())
    assert all(id(each.weight) in spared for each in layers if isinstance(each, nn.LayerNorm | nn.BatchNorm2d))
    assert not any(id(each.weight) in spared for each in layers if isinstance(each, nn.Linear | nn.Conv2d))


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.name.startswith('vit_')], ids=str)
def test_every_vit_that_trains_without_merging_can_be_tested_with_it(name):
    pytest.importorskip(name.parts[0])
    path, option = str(ROOT / 'configs' / name), {'model.backbone.merging.type': 'PiToMe'}
    cfg = load_config(path)
    if cfg.model.backbone.merging:
        option['model.backbone.merging._delete_'] = True
    assert load_config(path, option).model.backbone.merging == dict(type='PiToMe')


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
