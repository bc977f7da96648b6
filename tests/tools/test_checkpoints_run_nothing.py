"""Whatever a checkpoint holds, and by whichever way it is read, none of it runs."""

import os
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader

from mmsec.models.checkpoints.reading import read_all_safely
from tests.conftest import SEGMENTER, error_here, run_here, small_run


class Attack:
    """A pickle that makes a folder where it is loaded."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """What a tool changes in its process is undone."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0')


@pytest.fixture
def config(shapes, tmp_path):
    return small_run(SEGMENTER, shapes, tmp_path, **{'train_cfg.max_iters': 2, 'train_cfg.val_interval': 9})


def saved(work_dir, checkpoint):
    """Where a run would go on from the checkpoint."""
    work_dir.mkdir()
    path = work_dir / 'iter_1.pth'
    torch.save(checkpoint, path)
    (work_dir / 'last_checkpoint').write_text(str(path))
    return path


WAYS = {
    'resume path': ('', ['--resume', '{bad}']),
    'resume auto': ('', ['--resume', 'auto']),
    'resume option': ('', ['--cfg-options', 'resume=True']),
    'resume option and load_from': ('', ['--cfg-options', 'resume=True', 'load_from={bad}']),
    'load_from': ('', ['--cfg-options', 'load_from={bad}']),
    'init_cfg of the backbone': ('model["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint="{bad}")', []),
    'init_cfg of the backbone as a list': (
        'model["backbone"]["init_cfg"] = [dict(type="mmengine.Pretrained", checkpoint="{bad}")]',
        [],
    ),
    'init_cfg of a head': (
        'model["decode_head"]["init_cfg"] = dict(type="Pretrained", checkpoint="{bad}", prefix="decode_head")',
        [],
    ),
    'init_cfg of the model': ('model["init_cfg"] = [dict(type="Pretrained", checkpoint="{bad}")]', []),
}


@pytest.mark.parametrize('way', WAYS)
def test_a_pickle_stops_training(config, tmp_path, way):
    checkpoint = {'state_dict': {'w': Attack(tmp_path / 'attacked')}, 'meta': {'iter': 1, 'epoch': 0}}
    bad = saved(tmp_path / 'work', checkpoint)
    text, options = WAYS[way]
    options = [option.format(bad=bad) for option in options]
    with config.open('a') as file:
        file.write(text.format(bad=bad) + '\n')
    error = error_here('train.py', config, '--work-dir', bad.parent, *options)
    assert not (tmp_path / 'attacked').exists()
    assert re.search(f"'{bad}'.* it holds a .*mkdir, and only tensors and plain values are loaded", error)


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('test.py', ['{config}', '{bad}']),
        ('infer.py', ['{image}', '{config}', '{bad}', '--out', '{out}', '--device', 'cpu']),
        ('analysis_tools/analyze_clusters.py', ['{config}', '{bad}', '--out', '{out}']),
        ('analysis_tools/visualize_clusters.py', ['{image}', '--config={config}', '--checkpoint={bad}', '--out={out}']),
        ('model_converters/convert_checkpoint.py', ['{bad}', '{out}']),
    ],
)
def test_a_pickle_stops_the_other_tools(config, tmp_path, name, arguments):
    bad, image = tmp_path / 'bad.pth', tmp_path / 'image.png'
    torch.save({'state_dict': {'w': Attack(tmp_path / 'attacked')}}, bad)
    cv2.imwrite(str(image), np.zeros((40, 40, 3), np.uint8))
    paths = dict(config=config, bad=bad, image=image, out=tmp_path / 'out')
    error = error_here(name, *(argument.format(**paths) for argument in arguments))
    assert not (tmp_path / 'attacked').exists()
    assert 'only tensors and plain values are loaded' in error


@pytest.mark.parametrize('way', list(WAYS)[:5])
def test_the_text_of_a_config_is_not_executed(config, tmp_path, way):
    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    cfg.model.backbone.norm_cfg = dict(type='BN')
    text = f'import os\nos.mkdir({str(tmp_path / "attacked")!r})\n'
    meta = {'iter': 1, 'epoch': 0, 'seed': 0, 'config': text, 'cfg': text}
    hub = {'log_scalars': {}, 'runtime_info': {'cfg': text}, 'resumed_keys': {}}
    checkpoint = {'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': meta, 'message_hub': hub}
    bad = saved(tmp_path / 'work', checkpoint)
    options = [option.format(bad=bad) for option in WAYS[way][1]]
    result = run_here('train.py', config, '--work-dir', bad.parent, *options, check=way != 'resume auto')
    assert not (tmp_path / 'attacked').exists()
    if way == 'resume auto':
        assert 'error: ' in result.stdout
    else:
        assert bad.with_name('iter_2.pth').exists()


@pytest.mark.parametrize('url', ['ftp://a/b.pth', 'torchvision://resnet50', 'open-mmlab://a', 'mmcls://a', 's3://a/b'])
def test_mmengine_reads_no_address_of_its_own_schemes(url):
    read_all_safely()
    with pytest.raises(Exception, match=f"'{url}': expected https://HOST/FILE"):
        CheckpointLoader.load_checkpoint(url)


def test_a_load_by_others_takes_tensors_and_plain_values_only(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    read_all_safely()
    torch.save(Attack(tmp_path / 'attacked'), tmp_path / 'bad.pth')
    with pytest.raises(Exception, match='mkdir'):
        torch.load(tmp_path / 'bad.pth', weights_only=False)
    assert not (tmp_path / 'attacked').exists()
