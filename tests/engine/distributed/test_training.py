"""Several processes on one machine, connected by gloo."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel

from mmsec.models import SecViT
from tests.conftest import ROOT, SEGMENTER, SMALL_ARCH, small_run
from tests.engine import ends, start_two

TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node=2', '--master-port=0']
TORCHRUN += ['--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0']


def run(*command):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable}
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, env=environment)
    result = subprocess.run(list(map(str, command)), cwd=ROOT, **options)
    assert result.returncode == 0, result.stdout[-4000:]
    return result.stdout


def test_two_processes_with_one_image_are_one_process_with_two(shapes, tmp_path):
    losses = {}
    for processes, launch in ((1, [sys.executable]), (2, TORCHRUN)):
        changes = {
            'train_dataloader.batch_size': 2 // processes,
            'train_cfg.max_iters': 10,
            'train_cfg.val_interval': 99,
            # Rounding alone would put tokens of nearly equal scores into other clusters, and the losses would part.
            'model.backbone.grouping': dict(type='WindowGrouping'),
        }
        config = small_run(SEGMENTER, shapes, tmp_path, **changes)
        cfg = Config.fromfile(config)
        cfg.model.decode_head.loss_decode.class_weight = None  # mmsegmentation divides by the weights of each batch
        cfg.train_dataloader.dataset.pipeline = [
            t for t in cfg.train_dataloader.dataset.pipeline if t['type'] != 'RandomFlip'
        ]
        cfg.dump(config)
        launcher = ['--launcher', 'pytorch'] if processes > 1 else []
        arguments = tmp_path / f'{processes}', config, '--work-dir', tmp_path, *launcher
        run(*launch, '-m', 'tests.engine.distributed.losses', *arguments)
        files = sorted(tmp_path.glob(f'{processes}.*.json'))
        assert len(files) == processes
        losses[processes] = torch.tensor([json.loads(file.read_text()) for file in files]).mean(0)
    assert len(losses[1]) == 10
    assert losses[1][0] != losses[1][-1]
    torch.testing.assert_close(losses[1], losses[2], rtol=0, atol=1e-4)


@pytest.mark.parametrize('name', [SEGMENTER, 'mmdet/secvit_t_maskrcnn_shapes.py'])
def test_dist_train_and_dist_test_run_on_a_cpu(shapes, tmp_path, monkeypatch, name):
    config = small_run(name, shapes, tmp_path)
    work_dir = tmp_path / 'work'
    monkeypatch.setenv('PORT', str(20000 + os.getpid() % 20000))
    output = run(ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', work_dir)
    assert re.search(r'batch size\s+8 = 4 an iteration and process x 2 processes', output)
    assert 'SyncBN in the config runs as BN' in output or 'mmdet' in name
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    run(ROOT / 'tools/dist_test.sh', config, checkpoint, 2, '--work-dir', work_dir, '--out', tmp_path / 'two.json')
    test = ROOT / 'tools/test.py'
    run(sys.executable, test, config, checkpoint, '--work-dir', work_dir, '--out', tmp_path / 'one.json')
    two, one = (json.loads((tmp_path / f'{n}.json').read_text()) for n in ('two', 'one'))
    assert one == pytest.approx(two)


def configure_two(config, *own):
    """Two processes that only read their command lines, each with --work-dir and options; exit codes and outputs."""
    code = (
        'from tools import train; from mmsec.engine.processes import run\n'
        'run(lambda: print("goes on from", train.configure(train.parse_args()).load_from))'
    )
    options = ['--resume', '--launcher', 'pytorch', '--work-dir']
    processes = start_two(*(['-c', code, config, *options, *arguments] for arguments in own))
    outputs = ends(processes)
    return [process.returncode for process in processes], outputs


def test_all_processes_go_on_from_the_checkpoint_that_the_first_one_finds(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path)
    for name in ('first', 'second'):
        (tmp_path / name).mkdir()
    text = Config.fromfile(config).pretty_text.replace('SyncBN', 'BN')
    for iteration, name in ((2, 'first'), (4, 'second')):
        meta = {'epoch': 0, 'iter': iteration, 'seed': 1, 'cfg': text}
        torch.save({'meta': meta, 'state_dict': {}}, tmp_path / name / f'iter_{iteration}.pth')
    codes, outputs = configure_two(config, [tmp_path / 'first'], [tmp_path / 'second'])
    assert codes == [0, 0], outputs
    assert all(f'goes on from {tmp_path}/first/iter_2.pth' in output for output in outputs)


def test_what_the_first_process_cannot_go_on_from_is_one_error(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path)
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work/iter_2.pth').write_bytes(b'damaged')
    codes, outputs = configure_two(config, [tmp_path / 'work'], [tmp_path / 'work'])
    assert codes == [1, 1], outputs
    assert 'error: none of the 1 checkpoints' in outputs[0]
    assert ''.join(outputs).count('error: ') == 1


def test_processes_with_other_options_stop_before_anything_is_built(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path)
    other = ['--cfg-options', 'optim_wrapper.optimizer.lr=0.5', 'train_dataloader.dataset.indices=8']
    codes, outputs = configure_two(config, [tmp_path / 'work'], [tmp_path / 'work', *other])
    assert codes == [1, 1], outputs
    assert ''.join(outputs).count('error: ') == 1
    (line,) = [line for line in outputs[0].splitlines() if 'error: ' in line]
    assert 'process 1: ' in line
    assert 'optim_wrapper.optimizer.lr is 0.5, of the first 0.0008' in line
    assert 'train_dataloader.dataset.indices is 8, of the first absent' in line


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3])
def test_no_parameter_is_unused_under_ddp(group, frozen_stages, with_cp):
    backbone = SecViT(SMALL_ARCH, frozen_stages=frozen_stages, with_cp=with_cp, drop_path_rate=0.0)
    model = MMDistributedDataParallel(backbone, device_ids=None)
    for _ in range(2):  # DDP complains in the second iteration about what had no gradient in the first
        sum(m.square().mean() for m in model(torch.randn(2, 3, 64, 64))).backward()
    for parameter in backbone.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
