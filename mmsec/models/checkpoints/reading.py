"""Checkpoint files, read without running code from them, by whoever reads one."""

import os
import re
import stat
import time
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.model import PretrainedInit
from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmsec import compat
from mmsec.errors import InputError
from mmsec.models.checkpoints.downloading import check_sum, fetch
from mmsec.models.checkpoints.plain import STAND_INS, as_data, plain

_STATES = ('model_ema', 'model', 'state_dict')  # in published files, the average first; in OpenMMLab's
_KINDS = {'meta': dict, 'meta.epoch': int, 'meta.iter': int, 'meta.cfg': str, 'meta.dataset_meta': dict}
_KINDS |= {f'message_hub{name}': dict for name in ('', '.log_scalars', '.runtime_info', '.resumed_keys')}
_read: dict[tuple, dict] = {}  # what this process has read, until forget_checkpoints


def read_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint file without running code from it, once for a process.

    What MMEngine, mmcv 1.x and published training code keep beside tensors (histories, NumPy's numbers, options) is
    read as plain values.

    Args:
        path (str | Path): A file on this machine, or an address, as :func:`fetch` takes it. Either may end with
            ``#sha256=SUM``, which is compared.

    Returns:
        dict: What the file holds, a copy but for the tensors, which are on the CPU.

    Raises:
        InputError: If there is no such file, or it is damaged, inflates, or holds anything else than
            weights by name and plain values.
    """
    path, _, wanted = str(path).partition('#sha256=')
    if '://' in path:
        path = str(fetch(path, wanted))
    elif wanted:
        check_sum(path, wanted)
    try:
        found = os.stat(os.path.expanduser(path))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"checkpoint '{path}' not found") from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"checkpoint '{path}' is a {'folder' if stat.S_ISDIR(found.st_mode) else 'pipe or device'}")
    version = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    content: Any = _read.get(version)
    if content is None:
        try:
            content = _load(os.path.expanduser(path), found.st_size)
        except Exception as error:  # torch.load has no common error: zip, pickle, end of file, runtime
            raise InputError(f"checkpoint '{path}' cannot be read: {_reason(error)}") from error
        if time.time_ns() - found.st_mtime_ns > 10**8:  # else it may change once more within a tick of the clock
            _read[version] = content
    return plain(content, as_data)


def forget_checkpoints() -> None:
    """Free the memory of what was read."""
    _read.clear()


def named_by(init_cfg: Mapping) -> str:
    """The checkpoint of a ``Pretrained`` initialiser, as :func:`read_checkpoint` takes it."""
    wanted = init_cfg.get('sha256')
    return f'{init_cfg["checkpoint"]}#sha256={wanted}' if wanted else str(init_cfg['checkpoint'])


def _load(path: str, size: int) -> dict:
    """Read a file of ``size`` bytes and check what it holds."""
    content: Any
    if size == 0:
        raise EOFError('it is empty')
    if path.endswith('.safetensors'):
        content = _load_safetensors(path)
    else:
        _check_archive(path, size)
        content = plain(compat.load_data(path, STAND_INS), as_data)
    if not isinstance(content, dict):
        raise InputError(f'it holds a {type(content).__name__}, expected a dict')
    for place, kind in _KINDS.items():
        *parents, name = place.split('.')
        node = content
        for parent in parents:
            node = node.get(parent) or {}
        if name in node and not isinstance(node[name], kind) and (node[name] is not None or not parents):
            raise InputError(f'its {place} is of type {type(node[name]).__name__}, expected {kind.__name__}')
    tensors = list(_weights(content.get('ema_state_dict', {}), 'ema_state_dict').values())
    if content.get('state_dict') != {}:  # a run's state without weights is read; who wants weights refuses it
        tensors += weights_of(content).values()
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    if max([sum(storages.values()), *(each.numel() * each.element_size() for each in tensors)]) > size:
        raise InputError('its weights are more numbers than the file holds')
    return content


def _load_safetensors(path: str) -> dict[str, Tensor]:
    """The tensors of a file that holds nothing else."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError('it needs a package: pip install safetensors') from error
    return load_file(path)


def weights_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """The weights in a checkpoint by their names, without the ``module.`` of a distributed run.

    Args:
        checkpoint (Mapping): Published (``model_ema`` preferred over ``model``), trained with OpenMMLab
            (``state_dict``), or a bare state dict, perhaps among other values.

    Raises:
        InputError: If there are none, one is no dense tensor with a name, or two are of one name.
    """
    name = next((name for name in _STATES if checkpoint.get(name, {}) not in ({}, None)), '')  # model_ema may be empty
    weights = _weights(checkpoint[name] if name else checkpoint, name)
    if not weights:
        shown = ', '.join(map(str, list(checkpoint)[:3])) + ', ...' * (len(checkpoint) > 3)
        raise InputError(
            f'it holds no weights: expected {", ".join(_STATES)} or tensors by name, got {shown or "nothing"}'
        )
    return weights


def add_weight(weights: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Add a weight to a state dict, which must not have one of the name."""
    if name in weights:
        raise InputError(f'it has two keys for one weight, {name}')
    weights[name] = value


def _weights(state: Any, name: str) -> dict[str, Tensor]:
    """The tensors of a state dict; one without a name is a checkpoint of this form, with other values beside them."""
    if not isinstance(state, Mapping):
        raise InputError(f'its {name} is a {type(state).__name__}, expected a dict of tensors')
    place = f'{name}.'.removeprefix('.')
    weights: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        if not isinstance(key, str):
            raise InputError(f'{name or "it"} has the key {key!r}, expected names of weights')
        if not isinstance(value, Tensor):
            if not name or key.endswith('_extra_state'):
                continue
            raise InputError(f'its {place}{key} is a {type(value).__name__}, expected a tensor')
        if value.layout != torch.strided or value.is_nested or value.is_quantized or value.is_meta:
            raise InputError(f'its {place}{key} is sparse, nested, quantized or meta, expected a dense tensor')
        add_weight(weights, key.removeprefix('module.'), Tensor.detach(value))  # without what a pickle may set on it
    vars(weights)['_metadata'] = getattr(state, '_metadata', None)  # versions of modules, by which some rename weights
    return weights


def _check_archive(path: str, size: int) -> None:
    """Compare the checksums that torch writes and does not read; files from before torch 1.6 have none."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        inflated = sum(each.file_size for each in archive.infolist())
        if inflated > size:  # torch compresses nothing
            raise InputError(f'its {size:,} bytes would become {inflated:,}')
        damaged = archive.testzip()
    if damaged:
        raise InputError(f'the file is damaged or no checkpoint (checksum of {damaged} is wrong)')


def _reason(error: Exception) -> str:
    """What is wrong with a file, in one line; torch's own advice, to load it all the same, is no part of it."""
    blocked = re.search(r'GLOBAL ([\w.]+)', str(error))
    if blocked:
        return f'it holds a {blocked[1]}, and only tensors and plain values are loaded'
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if 'TorchScript' in str(error):
        return 'it is a TorchScript archive, expected a state dict'
    line = str(error).split('\n')[0].split('. ')[0] or type(error).__name__
    advice = re.search(r'weights.only|pickle_module|trust', line, re.IGNORECASE)
    return 'the file is damaged or no checkpoint' + ('' if advice else f' ({line})')


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
    checkpoint = read_checkpoint(filename)
    checkpoint.get('meta', {}).pop('config', None)
    return checkpoint


def is_pretrained(init_cfg: Mapping) -> bool:
    """Whether an initialiser of MMEngine, such as ``dict(type='Pretrained', checkpoint=PATH)``, reads a checkpoint."""
    kind = init_cfg.get('type')
    return kind is PretrainedInit or (isinstance(kind, str) and kind.split('.')[-1] in ('Pretrained', 'PretrainedInit'))
