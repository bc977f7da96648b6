"""Triton kernels compile for an A100 and an H100 without one, fit in a multiprocessor and keep to their registers.

It takes about 3 seconds for each kernel, tile and architecture the first time; Triton keeps what it compiled.
"""

import json
import os
import pkgutil
import subprocess
import sys

import pytest

from mmsec.ops.kernels import gpu
from tests.conftest import ROOT

SHARED = {80: 163 << 10, 90: 227 << 10}  # bytes that a block may have
STACK = 32  # bytes of a thread: a few values that are indexed, not registers that were spilled
MODULES = [f'{gpu.__name__}.{module.name}' for module in pkgutil.iter_modules(gpu.__path__) if module.name != 'launch']

pytest.importorskip('triton', reason='Triton is not installed')


def needs(module: str) -> list[dict]:
    """What tests.ops.gpu.compile_variants says of a module, which must be imported without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    processes = '1' if 'PYTEST_XDIST_WORKER' in os.environ else '2'
    command = [sys.executable, '-m', 'tests.ops.gpu.compile_variants', '--processes', processes, module]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


def complaint(need: dict) -> str | None:
    """What is wrong with a compiled kernel, or None."""
    if 'error' in need:
        return need['error']
    if need['local'] or need['stack'] > STACK:
        return f'spills registers: {need["stack"]} bytes of stack, {need["spills"]} loads and stores'
    if need['shared'] > SHARED[need['architecture']]:
        return f'needs {need["shared"]} bytes of shared memory'
    if need['half_products'] and not need['tensor_cores']:
        return 'multiplies matrices without tensor cores'
    return None


@pytest.mark.parametrize('module', MODULES, ids=lambda name: name.rpartition('.')[2])
def test_kernels_compile_without_spills(module):
    wrong = []
    for need in needs(module):
        if said := complaint(need):
            names = ('kernel', 'architecture', 'types', 'constants', 'warps')
            wrong.append(' '.join([*(str(need[name]) for name in names), said]))
    assert not wrong, '\n'.join(wrong)
