"""A head that does not fit the backbone or the classes is one line."""

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmsec.cli.config import load_config
from mmsec.cli.heads import check_channels, check_classes
from mmsec.errors import InputError
from tests.conftest import ROOT
from tests.test_configs import CONFIGS, load


@pytest.mark.parametrize('name', CONFIGS, ids=str)
def test_every_shipped_config_fits(name):
    check_channels(load(name))


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        (
            'mmdet/secvit_t_maskrcnn',
            {'model.backbone.arch': 'base'},
            r'model\.neck\.in_channels=\[64, 128, 256, 512\] does not fit the maps of mmsec\.SecViT\. Set it to what '
            r'they have: --cfg-options model\.neck\.in_channels=\[80,160,320,512\]',
        ),
        ('mmdet/secvit/secvit_t_dino', {'model.backbone.out_indices': (0, 1, 2, 3)}, r'in_channels=\[64,128,256,512\]'),
        ('mmdet/secvit/secvit_t_mask2former', {'model.backbone.arch': 'large'}, r'panoptic_head\.in_channels=\[64'),
        ('mmseg/secvit/secvit_t_mask2former_semantic', {'model.backbone.arch': 'base'}, r'decode_head\.in_channels='),
        ('mmseg/secvit/secvit_t_segformer', {'model.decode_head.in_channels': [64, 128, 256]}, r'=\[64,128,256,512\]'),
        ('mmseg/secvit_t_upernet', {'model.auxiliary_head.in_channels': 128}, r'auxiliary_head\.in_channels=256'),
        ('mmseg/secvit_t_upernet', {'model.auxiliary_head.in_index': 4}, 'in_index=4, but mmsec.SecViT returns 4 maps'),
        ('mmseg/clustr/clustr_b2_upernet', {'model.backbone.arch': 'b3'}, r'--cfg-options model\.decode_head'),
        ('mmdet/vit/vit_b_maskrcnn', {'model.backbone.arch': 'small'}, r'model\.neck\.in_channels=384$'),
    ],
)
def test_channels_that_do_not_fit_are_named(name, options, message):
    cfg = load_config(str(ROOT / f'configs/{name}.py'), options)
    with pytest.raises(InputError, match=message):
        check_channels(cfg)


def test_wrapped_models_and_other_backbones_are_understood():
    cfg = load_config(str(ROOT / 'configs/mmseg/secvit_t_upernet.py'), {'model.backbone.arch': 'base'})
    cfg.model = dict(type='SegTTAModel', module=cfg.model)
    with pytest.raises(InputError, match='does not fit'):
        check_channels(cfg)
    cfg.model.module.backbone = dict(type='mmseg.ResNet', depth=50)
    check_channels(cfg)


@pytest.mark.parametrize('name', CONFIGS, ids=str)
def test_heads_of_every_shipped_config_have_the_classes_of_its_data(name):
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    dataset = cfg.train_dataloader.dataset
    with DATASETS.switch_scope_and_registry(None) as registry:
        metainfo = getattr(registry.get(dataset.type), 'METAINFO', {}) | dataset.get('metainfo', {})
    if 'classes' in metainfo:
        check_classes(cfg, metainfo, 'data')


DETECTORS = {
    'mmdet/secvit_t_maskrcnn': ['roi_head.bbox_head.num_classes', 'roi_head.mask_head.num_classes'],
    'mmdet/secvit_b_cascade_maskrcnn_3x': [
        *(f'roi_head.bbox_head.{i}.num_classes' for i in range(3)),
        'roi_head.mask_head.num_classes',
    ],
    'mmdet/secvit/secvit_t_dino': ['bbox_head.num_classes'],
    'mmdet/secvit/secvit_t_retinanet': ['bbox_head.num_classes'],
    'mmdet/secvit/secvit_t_mask2former': [
        'panoptic_head.num_things_classes',
        'panoptic_fusion_head.num_things_classes',
    ],
}
SEGMENTERS = {
    'mmseg/secvit_t_upernet': ['decode_head.num_classes', 'auxiliary_head.num_classes'],
    'mmseg/secvit/secvit_t_mask2former_semantic': ['decode_head.num_classes'],
}


@pytest.mark.parametrize('more', [-1, 1])
@pytest.mark.parametrize(('name', 'places'), [*DETECTORS.items(), *SEGMENTERS.items()])
def test_heads_of_other_numbers_of_classes_are_all_named(name, places, more):
    right = 80 if name.startswith('mmdet') else 150
    for place in places:
        cfg = load_config(str(ROOT / f'configs/{name}.py'), {f'model.{place}': right + more})
        with pytest.raises(
            InputError, match=rf'^model\.{place} is {right + more}, and d has .*model\.{place}={right}$'
        ):
            check_classes(cfg, {'classes': ('a',) * right}, 'd')
    cfg = load_config(str(ROOT / f'configs/{name}.py'))
    with pytest.raises(InputError) as error:
        check_classes(cfg, {'classes': ('a',) * (right + more)}, 'd')
    assert [f'model.{place} is' in str(error.value) for place in places] == [True] * len(places)


def heads(scope, **model):
    init_default_scope(scope)
    return Config(dict(model=dict(type='Model', backbone=dict(type='VGG', num_classes=7), **model)))


BINARY = dict(type='FCNHead', out_channels=1, num_classes=2)


@pytest.mark.parametrize(
    ('cfg', 'fits'),
    [
        (('mmdet', dict(roi_head=dict(mask_head=dict(type='FCNMaskHead')))), 80),  # by default
        (('mmdet', dict(roi_head=dict(mask_head=dict(type='FCNMaskHead', class_agnostic=True)))), None),
        (('mmdet', dict(rpn_head=dict(type='RPNHead', num_classes=1))), None),
        (('mmdet', dict(roi_head=dict(semantic_head=dict(type='FusedSemanticHead')))), None),
        (('mmdet', dict(detector=dict(bbox_head=dict(type='FCOSHead', num_classes=4)))), 4),  # of a semi-supervised one
        (('mmdet', dict(panoptic_head=dict(type='MaskFormerHead', num_things_classes=3, num_stuff_classes=1))), 4),
        (
            ('mmseg', dict(auxiliary_head=[dict(type='FCNHead', num_classes=4), dict(type='STDCHead', num_classes=1)])),
            4,
        ),
        (('mmseg', dict(decode_head=BINARY)), 2),
        (('mmseg', dict(decode_head=BINARY | dict(num_classes=1))), 2),
        (('mmpretrain', dict(head=dict(type='LinearClsHead', num_classes=4))), 4),
    ],
)
def test_classes_of_a_head_are_counted_by_its_kind(cfg, fits):
    scope, model = cfg
    for count in {fits or 5, 5, 2}:
        cfg = heads(scope, **model)
        if fits in (None, count):
            check_classes(cfg, {'classes': ['a'] * count}, 'd')
        else:
            with pytest.raises(InputError, match=f'd has {count} classes'):
                check_classes(cfg, {'classes': ['a'] * count}, 'd')


def test_panoptic_data_count_things_and_stuff():
    head = dict(type='MaskFormerHead', num_things_classes=2, num_stuff_classes=3)
    box = dict(bbox_head=dict(type='Shared2FCBBoxHead', num_classes=2))
    metainfo = {'classes': 'abcde', 'thing_classes': 'ab', 'stuff_classes': 'cde'}
    metainfo = {name: tuple(value) for name, value in metainfo.items()}
    check_classes(heads('mmdet', panoptic_head=head, roi_head=box), metainfo, 'd')
    with pytest.raises(InputError, match=r'num_things_classes is 3, .*num_stuff_classes is 2,'):
        check_classes(
            heads('mmdet', panoptic_head=head | dict(num_things_classes=3, num_stuff_classes=2)), metainfo, 'd'
        )


@pytest.mark.parametrize('classes', ['disc', '', (), []])
def test_classes_that_are_no_list_of_names_are_refused(classes):
    with pytest.raises(InputError, match=r"expected a tuple of names\. One class is written classes=\('name',\)"):
        check_classes(heads('mmdet'), {'classes': classes}, 'd')


@pytest.mark.parametrize(('length', 'fits'), [(3, False), (4, True), (5, True), (6, False)])
def test_weights_of_classes_are_one_for_each(length, fits):
    loss = dict(type='CrossEntropyLoss', class_weight=[1.0] * length)
    cfg = heads('mmseg', decode_head=dict(type='FCNHead', num_classes=4, loss_decode=loss))
    if fits:
        check_classes(cfg, {'classes': ['a'] * 4}, 'd')
    else:
        with pytest.raises(InputError, match=f'class_weight of its loss has {length} numbers, d has 4 classes'):
            check_classes(cfg, {'classes': ['a'] * 4}, 'd')
