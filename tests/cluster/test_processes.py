"""Several processes on one machine, connected by gloo."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel

from mmsec.cli.config import revert_sync_bn
from mmsec.engine.processes import end_group, join_processes
from mmsec.engine.processes import run as run_main
from mmsec.errors import InputError
from mmsec.models import SecViT
from tests.conftest import ROOT, SMALL_ARCH, small_run

SEGMENTER = 'mmseg/secvit_t_upernet_shapes.py'
TORCHRUN = [
    sys.executable,
    '-m',
    'torch.distributed.run',
    '--nproc-per-node=2',
    '--master-port=0',
    '--rdzv-backend=c10d',
]


def run(*command):
    result = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable},
    )
    assert result.returncode == 0, result.stdout[-4000:]
    return result.stdout


def test_two_processes_with_one_image_are_one_process_with_two(shapes, tmp_path):
    losses = {}
    for processes, launch in ((1, [sys.executable]), (2, [*TORCHRUN, '--rdzv-endpoint=localhost:0'])):
        changes = {
            'train_dataloader.batch_size': 2 // processes,
            'train_cfg.max_iters': 10,
            'train_cfg.val_interval': 99,
        }
        config = small_run(SEGMENTER, shapes, tmp_path, **changes)
        cfg = Config.fromfile(config)
        cfg.model.decode_head.loss_decode.class_weight = None  # mmsegmentation divides by the weights of each batch
        cfg.train_dataloader.dataset.pipeline = [
            t for t in cfg.train_dataloader.dataset.pipeline if t['type'] != 'RandomFlip'
        ]
        cfg.dump(config)
        launcher = ['--launcher', 'pytorch'] if processes > 1 else []
        run(*launch, '-m', 'tests.cluster.losses', tmp_path / f'{processes}', config, '--work-dir', tmp_path, *launcher)
        files = sorted(tmp_path.glob(f'{processes}.*.json'))
        assert len(files) == processes
        losses[processes] = torch.tensor([json.loads(file.read_text()) for file in files]).mean(0)
    assert len(losses[1]) == 10
    assert losses[1][0] != losses[1][-1]
    torch.testing.assert_close(losses[1], losses[2], rtol=0, atol=1e-4)


@pytest.mark.parametrize('name', [SEGMENTER, 'mmdet/secvit_t_maskrcnn_shapes.py'])
def test_dist_train_and_dist_test_run_on_a_cpu(shapes, tmp_path, name):
    config = small_run(name, shapes, tmp_path)
    work_dir = tmp_path / 'work'
    port = {'PORT': str(20000 + os.getpid() % 20000)}
    os.environ.update(port)
    output = run(ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', work_dir)
    assert re.search(r'batch size\s+8 = 4 an iteration and process x 2 processes', output)
    assert 'SyncBN in the config runs as BN' in output or 'mmdet' in name
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    run(ROOT / 'tools/dist_test.sh', config, checkpoint, 2, '--work-dir', work_dir, '--out', tmp_path / 'two.json')
    test = ROOT / 'tools/test.py'
    run(sys.executable, test, config, checkpoint, '--work-dir', work_dir, '--out', tmp_path / 'one.json')
    two, one = (json.loads((tmp_path / f'{n}.json').read_text()) for n in ('two', 'one'))
    assert one == pytest.approx(two)


def configure_two(config, *work_dirs):
    """Two processes that only read their command lines, each with its own --work-dir; exit codes and outputs."""
    code = (
        f'import sys; sys.path.insert(0, "{ROOT}/tools"); import train; from mmsec.engine.processes import run\n'
        'run(lambda: print("goes on from", train.configure(train.parse_args()).load_from))'
    )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', code, config, '--resume', '--launcher', 'pytorch', '--work-dir', work_dir],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2'}
            | {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port, 'OMP_NUM_THREADS': '1'},
        )
        for rank, work_dir in enumerate(work_dirs)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def test_all_processes_go_on_from_the_checkpoint_that_the_first_one_finds(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path)
    for name in ('first', 'second'):
        (tmp_path / name).mkdir()
    text = Config.fromfile(config).pretty_text.replace('SyncBN', 'BN')
    for iteration, name in ((2, 'first'), (4, 'second')):
        meta = {'epoch': 0, 'iter': iteration, 'seed': 1, 'cfg': text}
        torch.save({'meta': meta, 'state_dict': {}}, tmp_path / name / f'iter_{iteration}.pth')
    codes, outputs = configure_two(config, tmp_path / 'first', tmp_path / 'second')
    assert codes == [0, 0], outputs
    assert all(f'goes on from {tmp_path}/first/iter_2.pth' in output for output in outputs)


def test_what_the_first_process_cannot_go_on_from_is_one_error(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path)
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work/iter_2.pth').write_bytes(b'damaged')
    codes, outputs = configure_two(config, tmp_path / 'work', tmp_path / 'work')
    assert codes == [1, 1], outputs
    assert 'error: none of the 1 checkpoints' in outputs[0]
    assert ''.join(outputs).count('error: ') == 1


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_processes_that_arrive_together_wait_for_each_other_and_end_an_nccl_group(tmp_path, monkeypatch):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    waited = []
    monkeypatch.setattr(torch.distributed, 'barrier', lambda: waited.append(torch.distributed.is_initialized()))
    end_group()
    assert torch.distributed.is_initialized()  # a gloo group is left as it is
    monkeypatch.setattr(torch.distributed, 'get_backend', lambda: 'nccl')
    end_group()
    assert not torch.distributed.is_initialized()
    assert waited == [True, True]
    end_group()  # nothing to end


@pytest.mark.parametrize(
    'error', [RuntimeError('a rank fails'), InputError('a rank fails'), SystemExit('a rank fails')]
)
def test_a_process_that_fails_leaves_alone(group, monkeypatch, capsys, error):
    def fail():
        raise error

    def not_to_be_called():
        pytest.fail('the other processes may be elsewhere')

    def leave(code):
        raise KeyboardInterrupt(code)  # which nothing on the way takes for an error of the run

    monkeypatch.setattr(torch.distributed, 'barrier', not_to_be_called)
    monkeypatch.setattr(torch.distributed, 'destroy_process_group', not_to_be_called)
    monkeypatch.setattr('atexit._run_exitfuncs', lambda: None)
    monkeypatch.setattr('os._exit', leave)
    with pytest.raises(KeyboardInterrupt, match='1'):
        run_main(fail)
    monkeypatch.undo()
    shown = capsys.readouterr().err
    assert 'a rank fails' in shown
    assert ('Traceback' in shown) == isinstance(error, RuntimeError)


def test_processes_on_gpus_are_connected_by_mmengine_before_the_checkpoint_is_chosen(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr('mmsec.engine.set_multi_processing', lambda **options: asked.append(options))
    monkeypatch.setattr('mmsec.engine.init_dist', lambda launcher, **options: asked.append((launcher, options)))
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '1')
    env_cfg = dict(mp_cfg=dict(mp_start_method='fork'), dist_cfg=dict(backend='nccl', timeout=900))
    join_processes(Config(dict(launcher='pytorch', env_cfg=env_cfg)))
    started, connected = asked
    assert started == {'mp_start_method': 'fork', 'distributed': True}
    assert connected == ('pytorch', {'backend': 'nccl', 'timeout': 900})
    monkeypatch.delenv('RANK')
    with pytest.raises(InputError, match='--launcher pytorch: RANK not set'):
        join_processes(Config(dict(launcher='pytorch')))


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3])
def test_no_parameter_is_unused_under_ddp(group, frozen_stages, with_cp):
    backbone = SecViT(SMALL_ARCH, frozen_stages=frozen_stages, with_cp=with_cp, drop_path_rate=0.0)
    model = MMDistributedDataParallel(backbone, device_ids=None)
    for _ in range(2):  # DDP complains in the second iteration about what had no gradient in the first
        sum(m.square().mean() for m in model(torch.randn(2, 3, 64, 64))).backward()
    for parameter in backbone.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad


def test_what_a_launcher_left_unset_is_named(monkeypatch):
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    with pytest.raises(InputError, match=r'--launcher slurm: SLURM_PROCID, .* not set'):
        join_processes(Config(dict(launcher='slurm')))


def test_sync_bn_becomes_bn_where_it_cannot_run_and_says_so(log):
    cfg = Config(dict(model=dict(norm_cfg=dict(type='SyncBN'), heads=[dict(norm_cfg=dict(type='SyncBN'))])))
    revert_sync_bn(cfg, 'none')
    assert cfg.model == dict(norm_cfg=dict(type='BN'), heads=[dict(norm_cfg=dict(type='BN'))])
    assert log == ['one process or no GPU: SyncBN in the config runs as BN']
