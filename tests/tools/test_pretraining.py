"""Training a classifier on folders of classes, evaluating it, and starting a detector from it, as a user does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS

from mmsec.cli import torchvision_apart  # noqa: F401
from mmsec.cli.weights import load_state
from mmsec.errors import InputError
from mmsec.models import SecViT, ViT
from mmsec.models.checkpoints.loading import classifier_weights, load_pretrained
from mmsec.models.checkpoints.reading import read_checkpoint
from tests.conftest import DATA, DETECTOR, OFFICIAL, ROOT, SMALL_ARCH, SMALL_CLUSTR, error_here, run_here, small_run
from tests.test_configs import load

pytest.importorskip('mmpretrain')

CLASSIFIER = 'mmpretrain/secvit/secvit_t_classifier_in1k.py'
COLORS = {'blue': (200, 60, 40), 'green': (40, 180, 60), 'red': (50, 40, 190)}


def write_folder(root: Path, classes: dict[str, tuple], train: int, val: int) -> Path:
    """Noisy images of 48x56, one colour a class."""
    rng = np.random.default_rng(0)
    for split, count in (('train', train), ('val', val)):
        for name, color in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = (np.array(color) + rng.normal(0, 30, (48, 56, 3))).clip(0, 255).astype(np.uint8)
                cv2.imwrite(str(folder / f'{i}.jpg'), image)
    return root


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp('folder'), COLORS, train=8, val=4)


SHORT = {
    'model.head.num_classes': 3,
    'model.data_preprocessor.num_classes': 3,
    'param_scheduler': [],
    'optim_wrapper.optimizer.lr': 3e-3,
    'randomness.seed': 0,
}


@pytest.fixture(scope='module')
def classifier(folder, tmp_path_factory):
    """A small classifier: (config, work dir, what training printed)."""
    work = tmp_path_factory.mktemp('classifier')
    changes = {'val_evaluator.topk': (1,), 'test_evaluator.topk': (1,), 'custom_hooks.6.momentum': 0.2}
    config = small_run(CLASSIFIER, folder, work, **SHORT, **changes)  # 6 iterations
    result = run_here('train.py', config, '--work-dir', work / 'work')
    return config, work / 'work', result.stdout


def test_a_classifier_trains_with_the_hooks_of_every_run(classifier):
    _, work_dir, printed = classifier
    assert re.search(r'learning rate\s+0\.003 \(AdamW\)', printed)
    losses = [float(loss) for loss in re.findall(r' loss: ([\d.]+)', printed)]
    assert len(losses) == 6  # 24 images an epoch, 8 of them three times
    assert sorted(path.name for path in work_dir.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth']


def test_it_tests_as_it_trained(classifier, tmp_path):
    config, work_dir, printed = classifier
    trained = [float(value) for value in re.findall(r'accuracy/top1: ([\d.]+)', printed)]
    assert len(trained) == 2
    run_here('test.py', config, work_dir / 'epoch_2.pth', '--work-dir', tmp_path, '--out', tmp_path / 'm.json')
    assert json.loads((tmp_path / 'm.json').read_text())['accuracy/top1'] == pytest.approx(trained[-1], abs=1e-3)


def test_a_detector_starts_from_its_averaged_weights(classifier, shapes, tmp_path):
    _, work_dir, _ = classifier
    path = work_dir / 'epoch_2.pth'
    checkpoint = read_checkpoint(path)
    backbone = SecViT(SMALL_ARCH)
    load_pretrained(backbone, path)
    averaged, last = checkpoint['state_dict'], checkpoint['ema_state_dict']
    for key, value in backbone.state_dict().items():
        if not key.startswith('out_norms.'):
            assert torch.equal(value, averaged[f'backbone.{key}'])
    name = 'backbone.patch_embed.proj.0.weight'
    assert not torch.equal(averaged[name], last[f'module.{name}'])
    init_cfg = dict(type='Pretrained', checkpoint=str(path), _delete_=True)
    changes = {'model.backbone.init_cfg': init_cfg, 'model.backbone.norm_eval': True}
    changes |= {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 9}
    config = small_run(DETECTOR, shapes, tmp_path, **changes)
    printed = run_here('train.py', config, '--work-dir', tmp_path / 'work').stdout
    assert re.search(rf'SecViT: loaded \d+ weights from {path}', printed)
    assert 'SecViT: not used from the checkpoint: neck.proj.weight' in printed
    assert 'head.fc.weight' in printed
    assert (tmp_path / 'work/epoch_1.pth').is_file()


def test_two_processes_train_and_test_with_a_launcher(classifier, tmp_path, monkeypatch):
    config, _, _ = classifier
    for name, value in {'PYTHON': sys.executable, 'PORT': '29641', 'PYTHONPATH': str(ROOT)}.items():
        monkeypatch.setenv(name, value)

    def launch(script: str, *args: object) -> str:
        command = [ROOT / 'tools' / script, config, *map(str, args), '--work-dir', tmp_path / 'work']
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert result.returncode == 0, result.stdout[-3000:]
        return result.stdout

    one_epoch = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=4']
    printed = launch('dist_train.sh', 2, '--amp', 'bf16', *one_epoch)
    assert re.search(r'batch size\s+8 = 4 an iteration and process x 2 processes', printed)
    trained = re.findall(r'accuracy/top1: ([\d.]+)', printed)
    assert re.findall(r'accuracy/top1: ([\d.]+)', launch('dist_test.sh', tmp_path / 'work/epoch_1.pth', 2)) == trained


def test_fine_tuning_from_published_weights_learns_a_folder(folder, tmp_path):
    changes = {
        'model.backbone.init_cfg': dict(type='Pretrained', checkpoint=str(OFFICIAL), _delete_=True),
        'train_cfg.max_epochs': 6,
        'train_cfg.val_interval': 6,
    }
    config = small_run('mmpretrain/secvit/secvit_t_classifier_custom.py', folder, tmp_path, **SHORT, **changes)
    printed = run_here('train.py', config, '--work-dir', tmp_path / 'work').stdout
    assert f'weights from {OFFICIAL}' in printed
    assert re.search(r'learning rate\s+[\d.e-]+ to 0\.003 ', printed)  # it decays by layer
    assert float(re.findall(r'accuracy/top1: ([\d.]+)', printed)[-1]) > 90  # chance is 33


def published_classifier() -> tuple[Config, torch.nn.Module]:
    """The classifier of the small published file: 10 classes, width 32."""
    cfg = load(Path(CLASSIFIER))
    cfg.model.backbone.arch = SMALL_ARCH
    cfg.model.neck.update(in_channels=96, out_channels=32)
    cfg.model.head.update(in_channels=32, num_classes=10)
    cfg.model.data_preprocessor.num_classes = 10
    return cfg, MODELS.build(cfg.model)


def test_a_published_file_loads_whole_and_gives_the_logits_of_its_classifier():
    _, model = published_classifier()
    checkpoint = read_checkpoint(OFFICIAL)
    load_state(model, classifier_weights(model, checkpoint), str(OFFICIAL))
    outputs = np.load(DATA / 'secvit_official_tiny.npz')
    published = {key: value.double() for key, value in checkpoint['model_ema'].items()}
    x = torch.from_numpy(outputs['stage4_64x96']).double()  # measured from the public code
    x = F.conv2d(x, published['proj.weight'], published['proj.bias'])
    statistics = (published[f'norm.{name}'] for name in ('running_mean', 'running_var', 'weight', 'bias'))
    x = F.silu(F.batch_norm(x, *statistics)).mean((2, 3), keepdim=True)
    wanted = F.conv2d(x, published['head.weight'], published['head.bias']).flatten(1)
    with torch.no_grad():
        logits = model.double().eval()(torch.from_numpy(outputs['input_64x96']).double())
    assert logits.shape == (2, 10)
    assert (logits - wanted).norm() < 1e-6 * wanted.norm()


def test_a_published_file_that_lacks_a_weight_or_has_another_classifier_is_refused():
    _, model = published_classifier()
    checkpoint = read_checkpoint(OFFICIAL)
    del checkpoint['model_ema']['norm.running_var']
    with pytest.raises(InputError, match=r'does not fit the config:[\s\S]*neck\.norm\.running_var'):
        load_state(model, classifier_weights(model, checkpoint), 'published.pth')
    cfg = load(Path('mmpretrain/vit/vit_s_classifier_in1k.py'))
    cfg.model.backbone.arch = dict(embed_dims=16, depth=1, num_heads=2, mlp_ratio=2)
    cfg.model.head.in_channels = 16
    distilled = {'head.weight': torch.zeros(1000, 16), 'head_dist.weight': torch.zeros(1000, 16)}
    with pytest.raises(InputError, match=r'second classifier, head_dist\.weight, and the config has one'):
        classifier_weights(MODELS.build(cfg.model), {'model': distilled})


def test_a_published_file_is_evaluated_by_the_tool(tmp_path):
    classes = {f'class{i}': (20 * i, 60, 120) for i in range(10)}
    data = write_folder(tmp_path / 'data', classes, train=1, val=2)
    changes = {'model.head.num_classes': 10, 'model.data_preprocessor.num_classes': 10}
    config = small_run(CLASSIFIER, data, tmp_path, **changes)
    written = Config.fromfile(config, import_custom_modules=False)
    written.model.neck.out_channels = written.model.head.in_channels = 32
    written.dump(config)
    run_here('test.py', config, OFFICIAL, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'm.json')
    assert 0 <= json.loads((tmp_path / 'm.json').read_text())['accuracy/top1'] <= 100
    line = error_here('test.py', config, OFFICIAL, '--show-dir', tmp_path)
    assert 'a classifier predicts no picture' in line


def test_clustr_and_vit_take_published_classifiers():
    cfg = load(Path('mmpretrain/clustr/clustr_b1_classifier_in1k.py'))
    cfg.model.backbone.arch = SMALL_CLUSTR
    cfg.model.head.update(in_channels=64, num_classes=10)
    checkpoint = read_checkpoint(DATA / 'clustr_official_small.pth')
    model = MODELS.build(cfg.model)
    load_state(model, classifier_weights(model, checkpoint), 'clustr')
    assert torch.equal(model.head.fc.weight, checkpoint['model']['head.weight'])

    cfg = load(Path('mmpretrain/vit/vit_s_classifier_in1k.py'))
    cfg.model.backbone.update(arch=dict(embed_dims=48, depth=4, num_heads=3, mlp_ratio=4), patch_size=8, img_size=64)
    cfg.model.head.update(in_channels=48, num_classes=10)
    checkpoint = read_checkpoint(DATA / 'vit_merge_official.pth')
    checkpoint['model'] |= {'head.weight': torch.randn(10, 48), 'head.bias': torch.randn(10)}
    model = MODELS.build(cfg.model).double().eval()
    load_state(model, classifier_weights(model, checkpoint), 'vit')
    outputs = np.load(DATA / 'vit_merge_official.npz')
    token = torch.from_numpy(outputs['plain']).double()[:, 0]
    with torch.no_grad():
        logits = model(torch.from_numpy(outputs['image']).double())
    head = [checkpoint['model'][f'head.{name}'].double() for name in ('weight', 'bias')]
    wanted = F.linear(token, *head)
    assert (logits - wanted).norm() < 1e-6 * wanted.norm()


def test_only_a_vit_with_a_class_token_returns_it():
    arch = dict(embed_dims=16, depth=2, num_heads=2, mlp_ratio=2)
    backbone = ViT(arch, patch_size=8, img_size=32, out_type='cls_token', out_indices=(0, 1))
    assert [tuple(m.shape) for m in backbone(torch.zeros(2, 3, 32, 40))] == [(2, 16, 1, 1)] * 2
    with pytest.raises(ValueError, match="out_type='cls_token' needs with_cls_token=True"):
        ViT(arch, out_type='cls_token', with_cls_token=False)
    with pytest.raises(ValueError, match="out_type must be 'map' or 'cls_token', got 'mean'"):
        ViT(arch, out_type='mean')
