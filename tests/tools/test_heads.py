"""Other heads are trained and evaluated by the tools as a user runs them."""

import math
import re

import pytest

from tests.conftest import run_here, small_run


@pytest.mark.parametrize(
    ('name', 'metric'),
    [
        ('mmdet/secvit/secvit_t_mask2former_shapes.py', r'coco/segm_mAP: ([\d.-]+)'),
        ('mmseg/secvit/secvit_t_semanticfpn_shapes.py', r' mIoU: ([\d.]+)'),
    ],
)
def test_they_train_and_evaluate(shapes, tmp_path, name, metric):
    config = small_run(name, shapes, tmp_path, **{'train_cfg.val_interval': 2, 'default_hooks.clusters.num_images': 1})
    result = run_here('train.py', config, '--work-dir', tmp_path / 'work')
    losses = [float(loss) for loss in re.findall(r' loss: ([\d.naif]+)', result.stdout)]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    assert re.search(metric, result.stdout)
