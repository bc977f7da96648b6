"""A CUDA device that is not there: shapes, types and choices of kernels as on a GPU, and no values.

Only for a process of its own (`tests.count_launches`): :func:`load` must be called before torch is imported, and what
it registers stays. Nothing here imports torch.
"""

import ctypes
import hashlib
import os
import runpy
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).parent / 'data/fake_cuda.cpp'


def why_not() -> str | None:
    """Why there can be no such device here, or None."""
    if _has_cuda():
        return None  # FakeTensorMode takes the device of that build
    return None if _compiler() else 'no C++ compiler for tests/data/fake_cuda.cpp'


def load() -> None:
    """Let torch find a device of type CUDA; a torch that was built with CUDA stays as it is.

    Raises:
        RuntimeError: If the library cannot be compiled.
    """
    if not _has_cuda():
        ctypes.CDLL(str(_library()))


def _torch() -> Path:
    """The folder of the package."""
    spec = find_spec('torch')
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _version() -> dict:
    """What torch says of its build."""
    return runpy.run_path(str(_torch() / 'version.py'))


def _has_cuda() -> bool:
    """Whether torch was built with CUDA."""
    return _version()['cuda'] is not None


def _compiler() -> str | None:
    """Where the compiler is."""
    return shutil.which('c++') or shutil.which('g++')


def _library() -> Path:
    """The compiled library, kept for each version of torch and of the source."""
    key = hashlib.sha256(SOURCE.read_bytes() + str(_torch()).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f'mmsec_fake_cuda_{os.getuid()}'
    path = folder / f'torch_{_version()["__version__"]}_{key}.so'
    if not path.is_file():
        folder.mkdir(mode=0o700, exist_ok=True)
        own = path.with_suffix(f'.{os.getpid()}')  # of two processes at once, each compiles, and the last one stays
        _compile(own)
        own.replace(path)
    return path


def _compile(target: Path) -> None:
    """Compile the source against the headers and libraries of torch."""
    root = _torch()
    libraries = root / 'lib'
    command = [
        *(_compiler() or 'c++', '-std=c++20', '-O0', '-shared', '-fPIC', f'-I{root / "include"}', SOURCE),
        *('-o', target, f'-L{libraries}', f'-Wl,-rpath,{libraries}', '-Wl,--no-as-needed', '-ltorch_cpu', '-lc10'),
    ]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f'{SOURCE} does not compile:\n{result.stderr[-2000:]}')
