"""A head that does not fit the backbone is one line."""

import pytest

from mmsec.cli.config import load_config
from mmsec.cli.heads import check_channels
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
