import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from mmsec.cli.config import load_config
from mmsec.cli.weights import check_frozen, check_start, check_weights, load_state
from mmsec.errors import InputError
from mmsec.models import SecViT
from mmsec.registry import MODELS
from tests.conftest import OFFICIAL, ROOT, SMALL_ARCH

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
    """What docs/get_started.md and the error for a missing checkpoint give."""
    options = {'model.backbone.init_cfg': None, 'model.backbone.norm_eval': False}
    for path in (DETECTOR, SEGMENTER):
        cfg = load_config(path, options)
        cfg.work_dir = str(tmp_path)
        check_frozen(cfg)
        assert MODELS.build(cfg.model.backbone).train().patch_embed.proj[1].training
    line = '--cfg-options ' + ' '.join(f'{name}={value}' for name, value in options.items())
    assert line in (ROOT / 'docs/get_started.md').read_text()


class Model(BaseModule):
    """A backbone and a head, each of which may start from a file."""

    def __init__(self, head: int = 5, init_cfg=None, of_head=None) -> None:
        super().__init__(init_cfg)
        self.backbone = SecViT(SMALL_ARCH)
        self.head = BaseModule(of_head)
        self.head.fc = nn.Linear(96, head)


def start(model, path=None, resume=False):
    """What train.py looks at before a run of the model starts."""
    check_start(SimpleNamespace(model=model, _load_from=path, _resume=resume, work_dir='absent'))


@pytest.fixture
def trained(tmp_path):
    """Write the file of a trained model, changed."""

    def write(change=None, **others):
        path = str(tmp_path / 'c.pth')
        state = Model().state_dict()
        (change or dict)(state)
        torch.save({'state_dict': state} | others, path)
        return path

    return write


def test_load_from_that_gives_the_backbone_nothing_is_refused(trained):
    start(Model(), trained())
    for path in (str(OFFICIAL), trained(lambda state: [state.pop(key) for key in list(state) if 'backbone' in key])):
        to_write = rf"init_cfg=dict\(type='Pretrained', checkpoint='{path}'\)"
        with pytest.raises(InputError, match=rf"^load_from='{path}': none .* fits the backbone.*{to_write}") as error:
            start(Model(), path)
        kinds = re.findall(r'\d+ (?:missing|unknown): ([^;]*?)(?=;|\. Published)', str(error.value))
        assert kinds
        assert all(len(kind.split(', ')) <= 4 for kind in kinds)


def test_load_from_that_gives_a_part_is_counted(trained, log):
    start(Model(7), trained(lambda state: state.pop('backbone.patch_embed.proj.0.weight')))
    count = len(Model().state_dict())
    own = len(SecViT(SMALL_ARCH).state_dict())
    given = f'{count - 3} of {count} weights of Model, {own - 1} of {own} of the backbone'
    assert any(
        given in line and '1 missing: backbone.patch' in line and '2 of another shape: head' in line for line in log
    )


def test_values_of_load_from_and_of_a_given_checkpoint_are_looked_at(trained):
    path = trained(lambda state: state['head.fc.bias'].fill_(float('nan')))
    for resume in (False, True):
        with pytest.raises(InputError, match=r'Weights 1 not finite: head\.fc\.bias'):
            start(Model(), path, resume) if not resume else load_state(Model(), torch.load(path), path)


@pytest.mark.parametrize(
    ('of_model', 'of_head', 'fits'),
    [
        ({}, None, True),
        (dict(prefix='head'), None, False),
        (None, dict(prefix='head.'), True),
        (None, {}, False),
        (None, dict(prefix='neck'), False),
    ],
)
def test_an_init_cfg_that_gives_its_part_nothing_is_refused(trained, of_model, of_head, fits):
    path = trained()
    named = [None if keys is None else dict(type='Pretrained', checkpoint=path, **keys) for keys in (of_model, of_head)]
    model = Model(5, *named)
    if fits:
        start(model)
        return
    with pytest.raises(InputError, match=r'init_cfg: (none of its weights fits|no weight of the checkpoint begins)'):
        start(model)


def test_a_run_goes_on_from_a_whole_state_only(trained):
    whole = dict(meta=dict(epoch=0, iter=1), message_hub={})
    start(Model(), trained(**whole), resume=True)
    for others in ({}, dict(meta=dict(epoch=0), message_hub={}), dict(meta=whole['meta'])):
        with pytest.raises(InputError, match=r'no run can go on from .*, which has no .* load_from='):
            start(Model(), trained(**others), resume=True)
    with pytest.raises(InputError, match=r'config: weights 2 of another shape: head\.fc\.weight: \(5, 96\) in'):
        start(Model(7), trained(**whole), resume=True)
    path = trained(lambda state: state.update({f'x.{i}': torch.zeros(1) for i in range(5)}), **whole)
    with pytest.raises(InputError, match=r'weights 5 unknown: x\.0, x\.1, x\.2, \.\.\.$'):
        start(Model(), path, resume=True)
