"""Files that are on the disk whole or not at all."""

import contextlib
import os
from pathlib import Path


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
