import pytest

from mmsec.cli.config import load_config
from mmsec.cli.weights import check_frozen, check_weights
from mmsec.errors import InputError
from mmsec.registry import MODELS
from tests.conftest import ROOT

DETECTOR = str(ROOT / 'configs/mmdet/secvit_t_maskrcnn.py')
SEGMENTER = str(ROOT / 'configs/mmseg/secvit_t_upernet.py')


def test_missing_and_damaged_weights_are_named(tmp_path):
    cfg = load_config(DETECTOR)
    with pytest.raises(InputError, match=r"checkpoint 'checkpoints/secvit_tiny\.pth' not found"):
        check_weights(cfg)
    cfg.model.backbone.init_cfg = None
    check_weights(cfg)
    cfg.load_from = str(tmp_path / 'broken.pth')
    (tmp_path / 'broken.pth').write_bytes(b'no checkpoint')
    with pytest.raises(InputError, match=r'broken\.pth. cannot be read'):
        check_weights(cfg)


@pytest.mark.parametrize('nested', [False, True])
def test_weights_of_any_part_of_the_model_are_looked_at(tmp_path, nested):
    cfg = load_config(DETECTOR, {'model.backbone.init_cfg': None})
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'absent.pth'))
    cfg.model.roi_head.bbox_head.init_cfg = [dict(type='Xavier', layer='Linear'), init_cfg] if nested else init_cfg
    with pytest.raises(InputError, match=r"absent\.pth' not found"):
        check_weights(cfg)


def test_random_weights_that_stay_as_they_are_are_refused(tmp_path):
    cfg = load_config(DETECTOR)
    cfg.work_dir = str(tmp_path)
    check_frozen(cfg)  # init_cfg names a checkpoint
    cfg = load_config(DETECTOR, {'model.backbone.init_cfg': None})
    cfg.work_dir = str(tmp_path)
    for resume in (False, True):  # resume=True without a checkpoint in the work dir gives no weights
        cfg.resume = resume
        with pytest.raises(
            InputError, match=r'norm_eval=True keeps .* --cfg-options model\.backbone\.norm_eval=False$'
        ):
            check_frozen(cfg)
    (tmp_path / 'last_checkpoint').touch()
    check_frozen(cfg)
    cfg.resume = False
    cfg.load_from = 'epoch_1.pth'
    check_frozen(cfg)
    cfg.load_from = None
    cfg.model.init_cfg = [dict(type='Pretrained', checkpoint='all.pth')]
    check_frozen(cfg)
    cfg.model.init_cfg = None
    cfg.model.backbone.norm_eval = False
    check_frozen(cfg)
    cfg.model.backbone.frozen_stages = 0
    with pytest.raises(InputError, match=r'frozen_stages=0 keeps .* --cfg-options model\.backbone\.frozen_stages=-1$'):
        check_frozen(cfg)


def test_the_line_for_random_weights_trains(tmp_path):
    """What README and the error for a missing checkpoint give."""
    options = {'model.backbone.init_cfg': None, 'model.backbone.norm_eval': False}
    for path in (DETECTOR, SEGMENTER):
        cfg = load_config(path, options)
        cfg.work_dir = str(tmp_path)
        check_frozen(cfg)
        assert MODELS.build(cfg.model.backbone).train().patch_embed.proj[1].training
    line = '--cfg-options ' + ' '.join(f'{name}={value}' for name, value in options.items())
    assert line in (ROOT / 'README.md').read_text()
