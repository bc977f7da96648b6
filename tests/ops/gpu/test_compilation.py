"""Triton kernels compile for an H100 without one, fit in a multiprocessor and keep to their registers.

A variant for each way through the code. `make test-gpu` compiles every tile, for an A100 too.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys

import pytest

from mmsec.ops.kernels import gpu
from tests.conftest import ROOT

pytest.importorskip('triton', reason='Triton is not installed')
MODULES = [f'{gpu.__name__}.{name}' for name in ('attention', 'depthwise', 'norm', 'score', 'sort')]
OPTIONS = ['--all'] if os.environ.get('MMSEC_ALL_VARIANTS') else []


def test_every_module_with_variants_is_compiled():
    folder = {f'{gpu.__name__}.{module.name}' for module in pkgutil.iter_modules(gpu.__path__)}
    assert {name for name in folder if hasattr(importlib.import_module(name), 'variants')} == set(MODULES)


def test_kernels_compile_without_spills():
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    command = [sys.executable, '-m', 'tests.ops.gpu.compile_variants', *MODULES, *OPTIONS]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    assert json.loads(result.stdout) == []
