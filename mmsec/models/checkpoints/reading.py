"""Checkpoint files, read without running code from them, by whoever reads one."""

import argparse
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.model import PretrainedInit
from mmengine.runner import CheckpointLoader

from mmsec.errors import InputError


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict:
    """Read a checkpoint file without running code from it.

    Tensors and plain values are allowed, and :class:`argparse.Namespace`, in which the published files keep their
    training options.

    Args:
        path (str | Path): A file on this machine.
        map_location (Any): Where its tensors go, as :func:`torch.load` takes it. Default: 'cpu'.

    Returns:
        dict: What the file holds.

    Raises:
        InputError: If the path is a URL, there is no such file, it is truncated, or holds anything else.
    """
    if '://' in str(path):
        raise InputError(f"checkpoint '{path}': download it first; checkpoints are read from files on this machine")
    if not Path(path).is_file():
        raise InputError(f"checkpoint '{path}' not found")
    try:
        _check_sums(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch.load has no common error: zip, pickle, end of file, runtime
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        blocked = re.search(r'GLOBAL ([\w.]+)', str(error))
        if blocked:
            reason = f'it holds a {blocked[1]}, and only tensors and plain values are loaded'
        else:
            reason = f'the file is damaged or no checkpoint ({reason})'
        raise InputError(f"checkpoint '{path}' cannot be read: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"checkpoint '{path}' holds a {type(checkpoint).__name__}, expected a dict")
    return checkpoint


def _check_sums(path: str | Path) -> None:
    """Compare the checksums that torch writes and does not read; files from before torch 1.6 have none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f'checksum of {damaged} is wrong')


def read_all_safely() -> None:
    """Make MMEngine and its hosts read every checkpoint of this process by :func:`read_checkpoint`.

    MMEngine's own loader falls back to a pickle that may run code, and ``Runner.resume`` executes the text that it
    finds as ``config`` in a checkpoint's ``meta``. All their ways to a checkpoint (``load_from``, ``resume``,
    ``init_cfg`` of any module, inferencers) go through the loaders that are replaced here. A ``torch.load`` of others
    is held to tensors and plain values too.
    """
    for prefix in list(CheckpointLoader._schemes):  # one for local files, and one for each kind of URL
        CheckpointLoader.register_scheme(prefix, load_from_local, force=True)
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)  # torch loads nothing if both are set
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'


def load_from_local(filename: str, map_location: Any = 'cpu') -> dict:
    """:func:`read_checkpoint` for MMEngine, without the text that it would execute and no longer writes."""
    checkpoint = read_checkpoint(os.path.expanduser(filename), map_location)
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def is_pretrained(init_cfg: Mapping) -> bool:
    """Whether an initialiser of MMEngine, such as ``dict(type='Pretrained', checkpoint=PATH)``, reads a checkpoint."""
    kind = init_cfg.get('type')
    return kind is PretrainedInit or (isinstance(kind, str) and kind.split('.')[-1] == 'Pretrained')
