"""Which kernels are on, by figures measured on a kind of device: ``table.json``, which `make tune-gpu` writes."""

import functools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

PATH = Path(__file__).with_name('table.json')
SWITCH = 'MMSEC_KERNELS'  # environment variable: 'on' for all kernels, 'off' for plain torch, 'measured' for the table


class _State:
    """What is in force: 'on', 'off' or 'measured', and what counts as measured in place of the file."""

    mode = os.environ.get(SWITCH, 'measured')
    content: dict | None = None


if _State.mode not in ('on', 'off', 'measured'):
    raise ValueError(f"{SWITCH} must be 'on', 'off' or 'measured', got {_State.mode!r}")


@contextmanager
def use_kernels(mode: str) -> Iterator[None]:
    """Turn all kernels on or off inside this context, whatever was measured; for all threads of the process.

    With activation checkpointing the backward pass belongs inside, too, because it computes blocks again.

    Args:
        mode (str): 'on' for every kernel that can run; 'off' for plain torch; 'measured' for the default, GPU kernels
            that the table of this kind of device names.

    Raises:
        ValueError: If it is something else.
    """
    if mode not in ('on', 'off', 'measured'):
        raise ValueError(f"mode must be 'on', 'off' or 'measured', got {mode!r}")
    before, _State.mode = _State.mode, mode
    try:
        yield
    finally:
        _State.mode = before


@contextmanager
def use_table(content: dict) -> Iterator[None]:
    """Take this for what was measured on this kind of device inside this context, such as to measure it.

    Args:
        content (dict): What stands in ``table.json`` under the name of a device: 'kernels' and 'tiles', both optional.
    """
    before, _State.content = _State.content, content
    try:
        with use_kernels('measured'):
            yield
    finally:
        _State.content = before


def mode() -> str:
    """'on', 'off' or 'measured'."""
    return _State.mode


@functools.cache
def _device() -> str:
    """The kind of this machine's GPU, such as 'sm_90'; 'none' without one."""
    return 'sm_{}{}'.format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else 'none'


@functools.cache
def _read() -> dict:
    """What the file says of this kind of device."""
    return json.loads(PATH.read_text()).get(_device(), {}) if PATH.is_file() else {}


def _measured() -> dict:
    """What counts as measured on this kind of device."""
    return _read() if _State.content is None else _State.content


def why_not(kernel: str) -> str | None:
    """Why a kernel is off on this machine, or None."""
    if _State.mode == 'on':
        return None
    if _State.mode == 'off':
        return f'kernels are off ({SWITCH} or use_kernels)'
    if kernel in _measured().get('kernels', ()):
        return None
    return f'not measured to be faster on {_device()}; {SWITCH}=on turns all kernels on'


def tile(kernel: str, key: str) -> dict[str, int] | None:
    """The sizes of a kernel's tile that were measured as the fastest on this kind of device, or None."""
    return _measured().get('tiles', {}).get(kernel, {}).get(key)
