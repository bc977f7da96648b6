"""mmpretrain is a host too, where it is installed."""

import pytest

from mmsec.cli.config import load_config
from mmsec.errors import InputError


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'classifier.py'
    path.write_text("default_scope = 'mmpretrain'\n")
    return str(path)


def test_a_config_of_mmpretrain_is_read(config, tmp_path, monkeypatch):
    (tmp_path / 'mmpretrain').mkdir()
    (tmp_path / 'mmpretrain/__init__.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_config(config).default_scope == 'mmpretrain'


def test_a_host_that_is_not_installed_is_named(config, monkeypatch):
    monkeypatch.setattr('mmsec.cli.config.find_spec', lambda name: None)
    with pytest.raises(InputError, match=r"classifier\.py' is for mmpretrain, which is not installed\. Add it"):
        load_config(config)


def test_a_tool_that_does_not_know_a_host_refuses_its_configs(config):
    with pytest.raises(InputError, match=r"default_scope must be one of \('mmdet', 'mmseg'\), got 'mmpretrain'"):
        load_config(config, hosts=('mmdet', 'mmseg'))
