"""mmpretrain is a host too, where it is installed."""

import sys
from types import ModuleType

import pytest

from mmsec.cli import torchvision_apart  # noqa: F401
from mmsec.cli.config import load_config
from mmsec.errors import InputError
from tests.conftest import one_line_error


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'classifier.py'
    path.write_text("default_scope = 'mmpretrain'\n")
    return str(path)


def test_a_config_of_mmpretrain_is_read(config, tmp_path, monkeypatch):
    (tmp_path / 'mmpretrain').mkdir()
    (tmp_path / 'mmpretrain/__init__.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, 'torchvision', ModuleType('torchvision'))
    assert load_config(config).default_scope == 'mmpretrain'


def test_a_host_that_is_not_installed_or_that_a_tool_does_not_know_is_named(config, monkeypatch):
    with pytest.raises(InputError, match=r"default_scope must be one of \('mmdet', 'mmseg'\), got 'mmpretrain'"):
        load_config(config, hosts=('mmdet', 'mmseg'))
    monkeypatch.setattr('mmsec.cli.config.find_spec', lambda name: None)
    with pytest.raises(InputError, match=r"classifier\.py' is for mmpretrain, which is not installed\. Add it"):
        load_config(config)


def test_a_torchvision_that_is_missing_is_named_with_the_one_that_fits(config, monkeypatch):
    monkeypatch.setattr('mmsec.cli.config.find_spec', lambda name: name)
    monkeypatch.setattr('torch.__version__', '2.13.0+cpu')
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    with pytest.raises(InputError) as error:
        load_config(config)
    assert 'needs a torchvision that was built for torch 2.13.0+cpu, and here is none' in str(error.value)
    assert str(error.value).endswith("'torchvision==0.28.*' --index-url https://download.pytorch.org/whl/cpu")


@pytest.mark.parametrize('name', ['mmpretrain/secvit/secvit_t_classifier_in1k.py', 'mmdet/secvit_t_maskrcnn.py'])
def test_a_torchvision_for_another_torch_is_one_line(name, tmp_path, monkeypatch):
    """Of mmdet, too: it imports mmpretrain where that is installed, and MMEngine imports torchvision."""
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision/__init__.py').write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    pytest.importorskip(name.split('/')[0])
    line = one_line_error('tools/train.py', f'configs/{name}')
    assert 'none that can be imported (operator torchvision::nms does not exist): pip install' in line
