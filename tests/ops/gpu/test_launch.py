"""Where kernels start: what fails is a KernelError, and processes of a node compile one after the other."""

import fcntl
import subprocess
import sys
import types

import pytest

pytest.importorskip('triton', reason='Triton is not installed')

from mmsec.ops.kernels import KernelError, table
from mmsec.ops.kernels.gpu import launch

OURS = types.SimpleNamespace(module='mmsec.ops.kernels.gpu.norm')


class Kernel:
    """Looks like one under triton.jit."""

    __name__ = '_kernel'

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.started = error, []

    def __getitem__(self, grid):
        def run(*args, **options):
            if self.error:
                raise self.error
            self.started.append((grid, args, options))

        return run


def test_a_kernel_starts_with_its_grid_arguments_and_warps():
    kernel = Kernel()
    launch.launch(kernel, (3, 2), 'x', 7, warps=8)
    assert kernel.started == [((3, 2), ('x', 7), {'num_warps': 8, 'num_stages': 2})]


@pytest.mark.parametrize(
    'error', [RuntimeError('Failed to find C compiler'), subprocess.CalledProcessError(1, 'ptxas'), OSError('no space')]
)
def test_what_keeps_a_kernel_from_starting_is_said_with_the_way_around_it(error):
    with pytest.raises(KernelError, match=r'^_kernel: .*\(MMSEC_KERNELS=off leaves all kernels out\)$'):
        launch.launch(Kernel(error), (1,))


def test_a_tile_is_the_measured_one_or_the_first(monkeypatch):
    candidates = [{'BW': 4, 'warps': 4}, {'BW': 8, 'warps': 4}]
    assert launch.tile('depthwise', 'C64 K3', candidates) == candidates[0]
    monkeypatch.setattr(table, '_measured', lambda: {'tiles': {'depthwise': {'C64 K3': candidates[1]}}})
    assert launch.tile('depthwise', 'C64 K3', candidates) == candidates[1]


def test_one_process_compiles_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(launch.tempfile, 'gettempdir', lambda: str(tmp_path))
    hook = dict.fromkeys(('key', 'repr', 'fn', 'compile', 'is_manual_warmup', 'already_compiled'))
    launch._Lock.take(**hook | {'fn': types.SimpleNamespace(module='another.package')})
    assert not list(tmp_path.iterdir())
    launch._Lock.take(**hook | {'fn': OURS})
    (path,) = tmp_path.iterdir()
    with path.open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        launch._Lock.let_go(**hook)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_failure_lets_the_next_process_compile(tmp_path, monkeypatch):
    monkeypatch.setattr(launch.tempfile, 'gettempdir', lambda: str(tmp_path))
    launch._Lock.take(None, None, OURS, None, None, None)
    with pytest.raises(KernelError):
        launch.launch(Kernel(RuntimeError('no')), (1,))
    assert launch._Lock.file is None


def test_only_where_several_processes_share_a_node():
    assert launch.triton.knobs.runtime.jit_cache_hook is None
    code = 'import mmsec.ops.kernels.gpu.launch, triton; print(triton.knobs.runtime.jit_cache_hook is not None)'
    environment = {'LOCAL_WORLD_SIZE': '8', 'PATH': ''}
    result = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == 'True'
