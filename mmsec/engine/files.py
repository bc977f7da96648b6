"""Files that are on the disk whole or not at all."""

import contextlib
import os
from pathlib import Path


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file so that, whatever happens, ``path`` holds either what it held before or all of ``content``.

    Args:
        path (str | Path): A local file; its folder is made where it is missing.
        content (bytes): What it will hold.

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
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
