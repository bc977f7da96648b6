"""A picture, and the two runs that several tests of the tools look at; who changes one takes a copy."""

import cv2
import numpy as np
import pytest

from tests.conftest import DETECTOR, SEGMENTER, run_here, small_run


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    return path


@pytest.fixture(scope='session')
def detector(shapes, tmp_path_factory):
    """A detector that has learnt the validation images by heart: (config, work dir, what training printed)."""
    folder = tmp_path_factory.mktemp('detector')
    config = small_run(
        DETECTOR,
        shapes,
        folder,
        **{
            'train_cfg.max_epochs': 60,
            'train_cfg.val_interval': 60,
            'param_scheduler.0.end': 50,
            'param_scheduler.1.T_max': 60,
            'param_scheduler.1.end': 60,
            'default_hooks.checkpoint.interval': 60,
            'train_dataloader.dataset.ann_file': 'annotations/instances_val2017.json',
            'train_dataloader.dataset.data_prefix.img': 'val2017/',
            'train_dataloader.batch_size': 2,
            'randomness.seed': 0,
            'optim_wrapper.optimizer.lr': 3e-3,
        },
    )
    result = run_here('train.py', config, '--work-dir', folder / 'work')
    return config, folder / 'work', result.stdout


@pytest.fixture(scope='session')
def segmenter(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('segmenter')
    changes = {
        'train_cfg.max_iters': 40,
        'train_cfg.val_interval': 40,
        'default_hooks.checkpoint.interval': 20,
        'default_hooks.checkpoint.max_keep_ckpts': 2,
        'optim_wrapper.optimizer.lr': 3e-3,
    }
    config = small_run(SEGMENTER, shapes, folder, **changes)
    result = run_here('train.py', config, '--work-dir', folder / 'work')
    return config, folder / 'work', result.stdout
