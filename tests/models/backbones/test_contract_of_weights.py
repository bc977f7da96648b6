"""What holds for the weights of every backbone that is registered."""

import copy
import hashlib

import numpy as np
import pytest
import torch
from mmengine.model import BaseModule

from mmsec.errors import InputError
from mmsec.models.checkpoints.loading import load_pretrained
from mmsec.registry import MODELS
from tests.conftest import DATA
from tests.models.backbones.small import SMALL, build


def test_weights_come_back_from_a_checkpoint_bit_for_bit_or_not_at_all(small, tmp_path):
    trained, path = build(small), tmp_path / 'trained.pth'
    state = {f'backbone.{key}': value for key, value in trained.state_dict().items()}
    key = next(key for key in reversed(trained.state_dict()) if not key.startswith('out_norms.'))

    def loaded(checkpoint):
        fresh = build(small)
        before = copy.deepcopy(fresh.state_dict())
        torch.save({'state_dict': checkpoint, 'meta': {'epoch': 1}}, path)
        try:
            load_pretrained(fresh, path)
        except InputError as error:
            assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
            return str(error)
        return fresh.state_dict()

    found = loaded(state | {'neck.conv.weight': torch.zeros(1)})
    assert all(torch.equal(found[name], value) for name, value in trained.state_dict().items())
    assert f'1 missing: {key}' in loaded({name: value for name, value in state.items() if name != f'backbone.{key}'})
    assert '1 unknown: extra.weight' in loaded(state | {'backbone.extra.weight': torch.zeros(1)})
    assert f'1 of another shape: {key}' in loaded(state | {f'backbone.{key}': torch.zeros(2, 3, 5, 7, 11)})


@pytest.mark.parametrize('small', [name for name, each in SMALL.items() if each.measured], indirect=True)
def test_published_weights_give_the_measured_maps(small):
    measured = small.measured
    init_cfg = dict(type='Pretrained', checkpoint=str(DATA / measured.weights))
    backbone = MODELS.build(dict(type=f'mmsec.{small.type}', **measured.options, init_cfg=init_cfg))
    backbone.init_weights()
    backbone.double().eval()
    outputs = np.load(DATA / measured.outputs)
    for image, names in measured.maps.items():
        with torch.no_grad():
            maps = backbone(torch.from_numpy(outputs[image]).double())
        for ours, name in zip(maps, names, strict=True):
            wanted = torch.from_numpy(outputs[name]).double()
            assert (ours - wanted).norm() < 1e-6 * wanted.norm(), name


def test_in_python_weights_are_loaded_at_once_and_stay(small, tmp_path):
    trained, path = build(small), tmp_path / 'trained.pth'
    torch.save({'state_dict': trained.state_dict()}, path)
    for given in (path, f'{path}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}'):
        found = MODELS.build(small.config() | dict(pretrained=given))
        assert all(torch.equal(value, found.state_dict()[name]) for name, value in trained.state_dict().items())
    with torch.no_grad():
        next(found.parameters()).add_(1)
    changed = copy.deepcopy(found.state_dict())
    model = BaseModule()
    model.backbone = found
    model.init_weights()  # as a host does
    assert all(torch.equal(value, changed[name]) for name, value in found.state_dict().items())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(pretrained='absent.pth'), r"checkpoint 'absent\.pth' not found"),
        (dict(pretrained=True), 'pretrained must be a file or an address'),
        (dict(pretrained=''), 'pretrained must be a file or an address'),
        (dict(pretrained='a.pth', init_cfg=dict(type='Pretrained', checkpoint='a.pth')), 'exclude each other'),
        (dict(pretrained=f'{DATA}/atc.npz'), 'cannot be read'),
    ],
)
def test_in_python_weights_that_cannot_be_loaded_are_refused(small, options, message):
    with pytest.raises(InputError, match=message):
        MODELS.build(small.config() | options)


def test_a_missing_checkpoint_says_where_published_ones_are(small):
    backbone = build(small, init_cfg=dict(type='Pretrained', checkpoint='absent.pth'))
    with pytest.raises(InputError, match=r"checkpoint 'absent\.pth' not found") as error:
        backbone.init_weights()
    assert backbone.published in str(error.value)
