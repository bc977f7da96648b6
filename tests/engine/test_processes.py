"""How processes start, and how they leave."""

import subprocess
import sys

import pytest
import torch
import torch.distributed
from mmengine.config import Config
from torch import nn

from mmsec import compat
from mmsec.engine import processes
from mmsec.engine.hooks.rank_consistency import weights_hash
from mmsec.engine.processes import end_group, join_processes
from mmsec.engine.processes import run as run_main
from mmsec.errors import InputError
from tests.conftest import ROOT

LEAVING = """
import atexit, sys
import torch.distributed
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.registry import MODELS

class Finalized:
    def __del__(self):
        print('finalized', flush=True)

def main():
    if sys.argv[1] == 'gloo':
        torch.distributed.init_process_group('gloo', init_method=f'file://{sys.argv[2]}', rank=0, world_size=1)
    if sys.argv[3] == 'error':
        raise InputError('no such file')
    sys.exit(int(sys.argv[3]))

keep = Finalized()
atexit.register(print, 'at exit')
run(main)
"""


@pytest.mark.parametrize('code', ['0', '75', 'error'])
@pytest.mark.parametrize('group', ['none', 'gloo'])
def test_a_tool_leaves_with_its_code_and_a_gloo_group_without_finalization(tmp_path, group, code):
    """Finalization is where threads of gloo can abort a process."""
    command = [sys.executable, '-c', LEAVING, group, str(tmp_path / 'group'), code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == (1 if code == 'error' else int(code))
    assert ('error: no such file' in result.stderr) == (code == 'error')
    assert 'at exit' in result.stdout
    if compat.OPERATORS or group == 'gloo':  # older ones hold the globals of a script for ever
        assert ('finalized' in result.stdout) == (group == 'none')


def test_processes_that_arrive_together_wait_for_each_other_and_end_an_nccl_group(group, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.distributed, 'barrier', lambda: waited.append(torch.distributed.is_initialized()))
    end_group()
    assert torch.distributed.is_initialized()  # a gloo group is left as it is
    monkeypatch.setattr(torch.distributed, 'get_backend', lambda: 'nccl')
    end_group()
    assert not torch.distributed.is_initialized()
    assert waited == [True, True]
    end_group()  # nothing to end


@pytest.mark.parametrize('error', [RuntimeError, InputError, SystemExit])
def test_a_process_that_fails_leaves_alone(group, monkeypatch, capsys, error):
    def fail():
        raise error('a rank fails')

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
    assert ('Traceback' in shown) == (error is RuntimeError)


def test_processes_on_gpus_are_connected_by_mmengine_before_the_checkpoint_is_chosen(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(processes, 'set_multi_processing', lambda **options: asked.append(options))
    monkeypatch.setattr(processes, 'init_dist', lambda launcher, **options: asked.append((launcher, options)))
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


def test_what_a_launcher_left_unset_is_named(monkeypatch):
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    with pytest.raises(InputError, match=r'--launcher slurm: SLURM_PROCID, .* not set'):
        join_processes(Config(dict(launcher='slurm')))


def test_the_hash_of_weights_is_of_each_place_and_bit():
    model = nn.BatchNorm1d(4).bfloat16()
    with torch.no_grad():
        model.weight.copy_(torch.arange(4))
    hashes = [weights_hash(model)]
    assert weights_hash(model) == hashes[0]
    with torch.no_grad():
        model.weight.copy_(torch.tensor([1, 0, 2, 3]))  # of the same sum
        hashes.append(weights_hash(model))
        model.weight[1] = -0.0
        hashes.append(weights_hash(model))
        model.num_batches_tracked += 1
        hashes.append(weights_hash(model))
    assert len({*hashes}) == 4
