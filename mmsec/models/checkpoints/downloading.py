"""Checkpoints by URL: downloaded once to a cache, and compared with their checksum."""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import urllib.parse
import urllib.request
from pathlib import Path

import torch
from mmengine.logging import print_log

from mmsec.errors import InputError

_SECONDS = 30  # that a server may be silent
_SUM = re.compile(r'-([0-9a-f]{8,64})\.\w+$')  # the end of a name such as secvit_tiny-0123abcd.pth


def fetch(address: str, wanted: str = '') -> Path:
    """Download a checkpoint, unless the cache has it; of several processes one downloads, and the others wait.

    Args:
        address (str): ``http(s)://...``, or ``hf://owner/name/file`` for a file of the Hugging Face Hub.
        wanted (str): Its SHA-256. Default: the first digits of it at the end of a name like ``secvit-0123abcd.pth``.

    Returns:
        Path: The file in ``$TORCH_HOME/hub/checkpoints/mmsec``, whose sum was compared if one is known.

    Raises:
        InputError: If the address is none of these, the download fails, or the sum is another.
    """
    parts = urllib.parse.urlsplit(address)
    name = Path(urllib.parse.unquote(parts.path)).name
    if parts.scheme not in ('http', 'https', 'hf') or not name:
        raise InputError(f"checkpoint '{address}': expected https://HOST/FILE, http:// or hf://OWNER/NAME/FILE")
    found = _SUM.search(name)
    wanted = wanted or (found[1] if found else '')
    # Files of one name on two servers are two files.
    path = Path(torch.hub.get_dir()) / 'checkpoints/mmsec' / hashlib.sha256(address.encode()).hexdigest()[:8] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix('.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the system if this process dies
        if path.is_file():
            check_sum(path, wanted)
            return path
        part = path.with_suffix('.part')
        try:
            print_log(f'downloading {address} to {path}', 'current')
            _download(address, part)
            digest = check_sum(part, wanted, address)
            os.replace(part, path)
        except (OSError, ValueError) as error:
            reason = getattr(error, 'reason', None) or error
            raise InputError(
                f"checkpoint '{address}' cannot be downloaded ({reason}). Without a network: copy the file to '{path}'"
            ) from error
        finally:
            part.unlink(missing_ok=True)
    if not wanted:
        print_log(f'no checksum; to be sure of it later: {address}#sha256={digest}', 'current', logging.WARNING)
    return path


def check_sum(path: str | Path, wanted: str, address: str = '') -> str:
    """The SHA-256 of a file; refuses another than ``wanted``, of which the first eight digits are enough."""
    if wanted and not re.fullmatch('[0-9a-fA-F]{8,64}', wanted):
        raise InputError(f"checkpoint '{address or path}': sha256 must be 8 to 64 hexadecimal digits, got {wanted!r}")
    digest = hashlib.sha256()
    try:
        with open(path, 'rb') as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"checkpoint '{path}' cannot be read: {error}") from error
    got = digest.hexdigest()
    if not got.startswith(wanted.lower()):
        raise InputError(
            f"checkpoint '{address or path}' has sha256 {got}, expected {wanted}; it is damaged or another"
        )
    return got


def _download(address: str, target: Path) -> None:
    """Write what is at an address to a file."""
    if address.startswith('hf://'):
        _download_from_hub(address, target)
        return
    with urllib.request.urlopen(address, timeout=_SECONDS) as answer, target.open('wb') as file:
        shutil.copyfileobj(answer, file)
        length = answer.headers.get('Content-Length')
    if length is not None and target.stat().st_size != int(length):
        raise ValueError(f'the connection broke after {target.stat().st_size} of {length} bytes')


def _download_from_hub(address: str, target: Path) -> None:
    """As :func:`_download`, by huggingface_hub, which knows the user's token."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise InputError(f"checkpoint '{address}' needs a package: pip install huggingface_hub") from error
    owner, name, *file = address.removeprefix('hf://').split('/')
    if not file:
        raise InputError(f"checkpoint '{address}': expected hf://owner/name/file")
    shutil.copyfile(hf_hub_download(f'{owner}/{name}', '/'.join(file)), target)
