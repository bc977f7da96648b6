"""What checkpoints hold beside tensors, as plain values: no class of another library is made, none of its code runs."""

import re
from argparse import Namespace
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

NOTHING = object()  # what is left out where it stands
_LEAVES = {
    type(None), bool, int, float, complex, str, bytes, bytearray, torch.Size, torch.dtype, torch.device,
}  # fmt: skip
_BASES = {
    int: int,
    float: float,
    np.floating: float,
    complex: complex,
    np.complexfloating: complex,
    str: str,
    bytes: bytes,
}


class _Kept:
    """What a pickle would make: the arguments and the state that it gives, of which :meth:`value` makes a plain one."""

    args: tuple
    state: Any

    def __new__(cls, *args: Any) -> '_Kept':
        """Keep the arguments."""
        self = object.__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def value(self, plain: Callable[[Any], Any]) -> Any:
        """The plain value; functions and methods have none."""
        return NOTHING


class _DType(_Kept):
    def value(self, plain: Callable[[Any], Any]) -> np.dtype:
        """Of numbers, text and objects; others are made of code words that NumPy would have to trust."""
        code = str(self.args[0])
        if not re.fullmatch(r'[biufcSUO?]\d{0,6}', code):
            raise ValueError(f'it holds an array of dtype {code}')
        order = self.state[1] if self.state and code[0] != 'O' else '='
        return np.dtype('O' if code[0] == 'O' else order.replace('|', '=') + code)


class _Number(_Kept):
    def value(self, plain: Callable[[Any], Any]) -> Any:
        """A number or text of Python."""
        dtype, content = self.args
        return np.frombuffer(content, plain(dtype))[0].item()


class _Array(_Kept):
    def value(self, plain: Callable[[Any], Any]) -> Any:
        """An array; of objects a list."""
        _, shape, dtype, by_columns, content = self.state
        dtype = plain(dtype)
        if dtype.kind == 'O':
            return plain(content)
        return np.frombuffer(content, dtype).reshape(shape, order='F' if by_columns else 'C').copy()


class _History(_Kept):
    def value(self, plain: Callable[[Any], Any]) -> dict[str, list]:
        """As mmsec.PlainCheckpointHook writes it and reads it again."""
        lists = (np.asarray(plain(self.state[f'_{name}_history'])).tolist() for name in ('log', 'count'))
        return dict(zip(('values', 'counts'), lists, strict=True))


class _MessageHub(_Kept):
    def value(self, plain: Callable[[Any], Any]) -> dict[str, Any]:
        """As MMEngine writes it since 0.3."""
        return {name: plain(self.state[f'_{name}']) for name in ('log_scalars', 'runtime_info', 'resumed_keys')}


class _Config(_Kept):
    def value(self, plain: Callable[[Any], Any]) -> Any:
        """The dict that a config is."""
        return plain(self.state[0])


class _Path(_Kept):
    def value(self, plain: Callable[[Any], Any]) -> str:
        """The path as text."""
        return str(PurePath(*self.args))


class _Text:
    """Another kind of text."""

    def __new__(cls, *args: Any) -> str:  # type: ignore[misc]
        """The text."""
        return str(*args)


class _Dict:
    """Another library's dict, filled by the pickle: torch fills an OrderedDict."""

    def __new__(cls, *args: Any) -> OrderedDict:  # type: ignore[misc]
        """Only a dict is taken as content; what else a class is given, such as the factory of defaultdict, is not."""
        return OrderedDict(args[0] if args and isinstance(args[0], dict) else ())


class _List:
    """Another kind of list, filled by the pickle."""

    def __new__(cls, *args: Any) -> list:  # type: ignore[misc]
        """A copy of the first argument, if it is a list or tuple."""
        return list(args[0]) if args and isinstance(args[0], list | tuple) else []


# The one list of names that a pickle may hold beside those of tensors, and what stands for each: of MMEngine
# (histories with their statistics, which are methods, and NumPy's numbers), mmcv 1.x and published training code.
STAND_INS: dict[str, Callable] = {
    'argparse.Namespace': Namespace,
    'types.SimpleNamespace': Namespace,
    'numpy.dtype': _DType,
    'numpy.ndarray': _Kept,
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
    'mmengine.logging.message_hub.MessageHub': _MessageHub,
    'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': _Kept,
    'torch.torch_version.TorchVersion': _Text,
    **{f'builtins.{name}': _Kept for name in ('getattr', 'dict', 'list', 'int', 'float', 'str', 'slice')},
    'builtins.frozenset': _List,
    'collections.deque': _List,
    'collections.defaultdict': _Dict,
    'addict.addict.Dict': _Dict,
    'easydict.EasyDict': _Dict,
    'yacs.config.CfgNode': _Dict,
    'fvcore.common.config.CfgNode': _Dict,
}
for _package in ('numpy.core', 'numpy._core'):  # of NumPy 1 and 2
    STAND_INS |= {f'{_package}.multiarray.scalar': _Number, f'{_package}.multiarray._reconstruct': _Array}
for _module in ('mmengine.config.config', 'mmcv.utils.config'):
    STAND_INS |= {f'{_module}.Config': _Config, f'{_module}.ConfigDict': _Dict}
for _kind in ('PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath'):
    STAND_INS |= {f'pathlib.{_kind}': _Path, f'pathlib._local.{_kind}': _Path}


def plain(node: Any, other: Callable[[Any, str, Callable], Any]) -> Any:
    """Copy the containers of a checkpoint into Python's own; tensors and plain values are the same objects.

    Args:
        node (Any): A checkpoint or a part of it.
        other (Callable): Is given what is neither a container nor plain, its place, and a function that does for parts
            of it what this one does; returns what takes its place, :data:`NOTHING` to leave it out.

    Returns:
        Any: The copy, which shares nothing but tensors and plain values. Of an OrderedDict's attributes
        ``_metadata``, the versions of modules, is kept.
    """
    done: dict[int, tuple[Any, Any]] = {}  # what was copied, and its copy

    def walk(node: Any, place: str = '') -> Any:
        kind = type(node)
        if kind in _LEAVES or isinstance(node, Tensor):
            return node
        if id(node) in done:
            return done[id(node)][1]
        new: Any
        if isinstance(node, Mapping):
            new = kind() if kind in (OrderedDict, Counter) else {}
            done[id(node)] = node, new
            for key, value in kind.items(node):  # an attribute of a pickled OrderedDict may be called items
                name, copied = walk(key, place), walk(value, f'{place}.{key}'.removeprefix('.'))
                if name is not NOTHING and copied is not NOTHING:
                    new[name] = copied
            versions = vars(node).get('_metadata') if kind is OrderedDict else None
            if isinstance(versions, dict):
                new._metadata = walk(versions)
            return new
        if isinstance(node, list | tuple | set | frozenset | deque):
            new = []
            done[id(node)] = node, new
            new += (each for each in (walk(each, f'{place}.{i}') for i, each in enumerate(node)) if each is not NOTHING)
            if isinstance(node, tuple | set | frozenset):
                new = tuple(new) if isinstance(node, tuple) else set(new)
        else:
            new = other(node, place, walk)
        done[id(node)] = node, new
        return new

    return walk(node)


def as_data(node: Any, place: str, walk: Callable) -> Any:
    """What :func:`plain` takes for a value that was read.

    Raises:
        ValueError: If it is none of those in :data:`STAND_INS`.
    """
    if isinstance(node, _Kept):
        return node.value(walk)
    if isinstance(node, type) and issubclass(node, _Kept):
        return NOTHING
    if isinstance(node, np.ndarray):
        return node
    if type(node) is Namespace:
        new = Namespace()
        vars(new).update(walk(vars(node), place))
        return new
    raise ValueError(f'{place} holds a {getattr(node, "__name__", type(node).__name__)}, no tensor and no plain value')


def to_write(left_out: list[str]) -> Callable:
    """What :func:`plain` takes for a value that is to be written; of what is left out, place and type are noted."""

    def written(node: Any, place: str, walk: Callable) -> Any:
        if isinstance(node, HistoryBuffer):
            return dict(zip(('values', 'counts'), (each.tolist() for each in node.data), strict=True))
        if isinstance(node, Enum):
            return walk(node.value, place)
        for base, kind in _BASES.items():
            if isinstance(node, base):
                return kind(node)
        if isinstance(node, np.generic | np.ndarray):
            return walk(node.tolist(), place)
        if isinstance(node, PurePath):
            return str(node)
        left_out.append(f'{place} ({type(node).__name__})')
        return NOTHING

    return written
