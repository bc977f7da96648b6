"""How much SecViT launches on a GPU with all kernels on, counted without one: what decides the time of small batches.

Counted (tests/count_launches.py) are calls of aten operators that compute on the device, and starts of Triton kernels,
in bfloat16 under autocast; no loss and no optimizer. Some calls are more than one kernel of the device, which only a
profile shows: cuDNN adds the bias of a convolution by a kernel of its own, and a gradient of a convolution, of a norm
or of attention is two or three; a sort of more than 4096 keys is about 23 (stages 1 and 2 at 800x1344).
docs/performance.md has measured numbers.
"""

import json
import os
import subprocess
import sys

import pytest

from tests import fake_cuda
from tests.conftest import ROOT

pytest.importorskip('triton', reason='Triton is not installed')
if said := fake_cuda.why_not():
    pytest.skip(said, allow_module_level=True)

SMALL = dict(arch='small', cluster_size=98)
DEPTHS = (1, 1, 1, 1)


def launches(*models: dict, train: bool) -> list[dict]:
    """What each SecViT launches for 2 images of 800x1344, see :func:`tests.count_launches.count`."""
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    options = ['--train'] if train else []
    result = subprocess.run(
        [sys.executable, '-m', 'tests.count_launches', *options, *map(json.dumps, models)],
        cwd=ROOT,
        env=environment | {'MMSEC_KERNELS': 'on'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


def of_depths(depths: tuple[int, ...], layer_scale: bool) -> dict:
    """SecViT-S with so many blocks in each stage, none of them dropped."""
    arch = dict(
        embed_dims=(64, 128, 256, 512),
        depths=depths,
        num_heads=(2, 4, 8, 16),
        mlp_ratio=3,
        layer_scale=(layer_scale,) * 4,
    )
    return dict(arch=arch, cluster_size=98, drop_path_rate=0.0)


def of_a_block(layer_scale: bool, train: bool) -> list[tuple[int, int]]:
    """For each stage what one block more launches, forward and backward."""
    deeper = [tuple(depth + (stage == i) for i, depth in enumerate(DEPTHS)) for stage in range(4)]
    less, *more = launches(*(of_depths(depths, layer_scale) for depths in (DEPTHS, *deeper)), train=train)
    return [(each['forward'] - less['forward'], each['backward'] - less['backward']) for each in more]


def test_a_block_infers():
    forward = [forward for forward, _ in of_a_block(layer_scale=False, train=False)]
    assert max(forward) <= 20, forward


@pytest.mark.parametrize('layer_scale', [False, True])
def test_a_block_trains(layer_scale):
    both = of_a_block(layer_scale, train=True)
    assert max(map(sum, both)) <= 44, both


def test_secvit_s_infers():
    (found,) = launches(SMALL, train=False)
    assert found['by_kernel']
    assert found['forward'] <= 650, found


def test_secvit_s_trains():
    (found,) = launches(SMALL, train=True)
    assert found['by_kernel']
    assert found['forward'] + found['backward'] <= 1500, found
