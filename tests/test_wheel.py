"""A wheel trains from any folder: it has configs, tools and the model index, and finds configs by name."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from mmsec.__main__ import COMMANDS
from mmsec.cli import installation
from mmsec.errors import InputError
from tests.conftest import ROOT, SMALL_ARCH

CONTENT = (
    'mmsec',
    'configs',
    'tools',
    'pyproject.toml',
    'setup.py',
    'MANIFEST.in',
    'README.md',
    'LICENSE',
    'model-index.yml',
)
SMALL = """_base_ = './mine.py'
model = dict(backbone=dict(arch={arch}), decode_head=dict(in_channels=[16, 32, 64, 96], channels=16),
             auxiliary_head=dict(in_channels=64, channels=16))
train_cfg = dict(max_iters=1, val_interval=1)
param_scheduler = []
"""


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A folder like a clone, of the name that it has."""
    source = tmp_path_factory.mktemp('source') / 'mmsec'
    source.mkdir()
    for name in CONTENT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope='module')
def site(source, tmp_path_factory):
    """A folder with the unpacked wheel."""
    site = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '.', '-w', site]
    subprocess.run(command, cwd=source, check=True)
    (wheel,) = site.glob('*.whl')
    zipfile.ZipFile(wheel).extractall(site)
    return site


@pytest.mark.parametrize('beside', [False, True])
def test_an_editable_installation_is_found_beside_the_clone_whose_folder_has_its_name(beside, source, tmp_path):
    build = 'import sys; from setuptools.build_meta import build_editable as build; build(sys.argv[1])'
    subprocess.run([sys.executable, '-c', build, tmp_path], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob('*.whl')
    zipfile.ZipFile(wheel).extractall(tmp_path / 'site')
    look = """import site, sys
from importlib.util import find_spec
site.addsitedir(sys.argv[1])
print(find_spec('mmsec').origin)"""
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    found = subprocess.run(  # -S: no other mmsec that is installed
        [sys.executable, '-S', '-c', look, tmp_path / 'site'],
        cwd=source.parent if beside else tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.strip() == str(source / 'mmsec/__init__.py')


def call(site, folder, *arguments):
    environment = os.environ | {'PYTHONPATH': str(site)}
    command = [sys.executable, '-m', 'mmsec', *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_config_of_the_wheel_is_trained_and_tested_in_another_folder(site, shapes, tmp_path):
    arch = dict(SMALL_ARCH, _delete_=True)
    (tmp_path / 'small.py').write_text(SMALL.format(arch=arch))
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/shapes').symlink_to(shapes)
    assert call(site, tmp_path, 'copy', 'secvit_t_upernet_shapes', 'mine.py').returncode == 0
    assert "'mine.py' is there already" in call(site, tmp_path, 'copy', 'secvit_t_upernet_shapes', 'mine.py').stderr
    trained = call(site, tmp_path, 'train', 'small.py')
    assert trained.returncode == 0, trained.stderr
    tested = call(site, tmp_path, 'test', 'small.py', 'work_dirs/small/iter_1.pth')
    assert tested.returncode == 0, tested.stderr
    assert 'mIoU' in tested.stdout


def test_every_command_has_its_tool_and_a_name_that_is_none_is_one_line(site, tmp_path):
    assert [tool for tool in COMMANDS.values() if not (site / 'mmsec/.mim/tools' / tool).is_file()] == []
    assert call(site, tmp_path, 'test', '--help').stdout.startswith('usage: test.py')
    wrong = call(site, tmp_path, 'train', 'secvit_t_nothing')
    assert (wrong.returncode, wrong.stderr) == (1, "error: config 'secvit_t_nothing' not found\n")
    misspelt = call(site, tmp_path, 'copy', 'secvit_t_masckrcnn', 'mine.py')
    assert misspelt.stderr == "error: config 'secvit_t_masckrcnn' not found. Did you mean 'secvit_t_maskrcnn'?\n"
    no_command = call(site, tmp_path, 'fly')
    assert (no_command.returncode, no_command.stderr) == (2, "error: no command 'fly'\n")


def test_a_config_is_found_by_name_in_the_folder_of_its_family():
    found = installation.find_config('secvit_b_maskrcnn')
    assert found == str(ROOT / 'configs/mmdet/secvit/secvit_b_maskrcnn.py')
    assert installation.find_config('secvit_b_maskrcnn.py') == found
    assert installation.find_config(found) == found
    with pytest.raises(InputError, match="config 'schedule_1x' not found"):
        installation.find_config('schedule_1x')  # a part of configs


def test_two_openmmlabs_and_a_checkout_of_another_mmsec_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(installation, 'packages_distributions', lambda: {'mmcv': ['onedl-mmcv', 'mmcv', 'mmcv']})
    with pytest.raises(
        InputError, match=r'mmcv is installed twice, by mmcv and onedl-mmcv.* pip uninstall mmcv onedl-mmcv'
    ):
        installation.check_installation()
    monkeypatch.setattr(installation, 'packages_distributions', dict)
    installation.check_installation()
    (tmp_path / 'mmsec').mkdir()
    (tmp_path / 'mmsec/version.py').touch()
    monkeypatch.setattr(sys.modules['__main__'], '__file__', str(tmp_path / 'tools/train.py'), raising=False)
    with pytest.raises(InputError, match=f"is of the checkout '{tmp_path}', and python imports mmsec from"):
        installation.check_installation()
