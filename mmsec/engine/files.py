"""Files that are on the disk whole or not at all, and JSON that every reader takes."""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

from mmengine.fileio import JsonHandler, register_handler


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file, and its folder, so that ``path`` holds what it held before or all of ``content``, whatever happens.

    Raises:
        OSError: If it cannot be written, such as on a full disk; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some network mounts cannot flush a folder; the file is there all the same
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name survives a power cut, too
        finally:
            os.close(folder)


def to_json(content: Any, indent: int | None = None) -> str:
    """JSON text. Numbers that are not finite, for which JSON has no word, are null; arrays and tensors are lists."""
    try:
        return json.dumps(content, indent=indent, allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(_finite(content), indent=indent, allow_nan=False)


@register_handler('json')
class FiniteJsonHandler(JsonHandler):
    """How MMEngine writes JSON, such as a run's scalars, by :func:`to_json`."""

    def dump_to_fileobj(self, obj: Any, file: TextIO, **options: Any) -> None:
        """Write an object into a file."""
        file.write(self.dump_to_str(obj, **options))

    def dump_to_str(self, obj: Any, **options: Any) -> str:
        """The text of an object."""
        return to_json(obj, options.get('indent'))


def _plain(value: Any) -> Any:
    """What JSON has for an array, a tensor, a path, or a set or range."""
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, 'tolist') else list(value)


def _finite(content: Any) -> Any:
    """Content of what JSON has words for."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    return content if content is None or isinstance(content, str | int) else _finite(_plain(content))
