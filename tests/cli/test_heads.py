"""A head that fits neither the backbone nor the images is one line."""

import pytest
import torch
from mmengine.registry import MODELS

from mmsec.cli.config import load_config
from mmsec.cli.heads import check_channels, naming_small_images
from mmsec.errors import InputError
from tests.conftest import DETECTOR, ROOT, one_line_error, run_tool, shrink_model, small_run
from tests.test_configs import CONFIGS, batch, load


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
        (
            'mmseg/secvit_t_upernet',
            {'model.auxiliary_head.in_index': 4},
            r'in_index=4, but mmsec\.SecViT returns 4 maps',
        ),
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


def test_training_says_it_before_it_looks_for_data():
    error = one_line_error(
        'tools/train.py', 'configs/mmdet/secvit/secvit_t_mask2former.py', '--cfg-options', 'model.backbone.arch=base'
    )
    assert error.startswith('error: model.panoptic_head.in_channels=[64, 128, 256, 512] does not fit the maps')


def test_images_of_fewer_tokens_than_queries_are_named():
    cfg = load('mmdet/secvit/secvit_t_dino.py')
    shrink_model(cfg)
    cfg.model.num_queries = 900
    model = MODELS.build(cfg.model)
    data = model.data_preprocessor(batch(cfg), training=True)
    with (
        pytest.raises(
            InputError, match=r'too small for DINO: its maps have 85 tokens, of which model\.num_queries=900'
        ),
        naming_small_images(),
    ):
        model(**data, mode='loss')


def test_training_on_such_images_ends_with_that_line(shapes, tmp_path):
    pipeline = load(DETECTOR).train_dataloader.dataset.pipeline
    changes = {'model.num_queries': 900, 'model.backbone.norm_eval': False}
    changes['train_dataloader.dataset.pipeline'] = [*pipeline[:1], *pipeline[2:]]  # not resized
    config = small_run('mmdet/secvit/secvit_t_dino.py', shapes, tmp_path, **changes)
    result = run_tool('train.py', config, '--work-dir', tmp_path / 'work', check=False)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1].startswith('error: an image is too small for DINO: its maps have 85 tokens')


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match='selected index k') as error, naming_small_images():
        torch.zeros(3).topk(4)
    assert not isinstance(error.value, InputError)
