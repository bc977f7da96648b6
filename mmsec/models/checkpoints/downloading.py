"""Checkpoints by URL: downloaded once to a cache, and compared with their checksum."""

import fcntl
import hashlib
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


def fetch(url: str) -> Path:
    """Download a checkpoint, unless the cache has it; of several processes one downloads, and the others wait.

    Args:
        url (str): ``http(s)://...``, or ``hf://owner/name/file`` for a file of the Hugging Face Hub. It may end with
            ``#sha256=SUM``. First digits of the sum at the end of the name serve, too: ``secvit-0123abcd.pth``.

    Returns:
        Path: The file in ``$TORCH_HOME/hub/checkpoints/mmsec``, whose sum was compared if one is known.

    Raises:
        InputError: If the URL is none of these, the download fails, or the sum is another.
    """
    address, _, fragment = url.partition('#')
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ('http', 'https', 'hf'):
        raise InputError(f"checkpoint '{url}': only http://, https:// and hf:// are downloaded")
    name = Path(urllib.parse.unquote(parts.path)).name
    found = _SUM.search(name)
    wanted = fragment.removeprefix('sha256=').lower() or (found[1] if found else '')
    if not name or (fragment and not re.fullmatch(r'sha256=[0-9a-fA-F]{64}', fragment)):
        raise InputError(f"checkpoint '{url}': expected https://HOST/FILE#sha256=SUM, with a sum of 64 digits")
    # Files of one name on two servers are two files.
    path = Path(torch.hub.get_dir()) / 'checkpoints/mmsec' / hashlib.sha256(address.encode()).hexdigest()[:8] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix('.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the system if this process dies
        part, new = path.with_suffix('.part'), not path.is_file()
        try:
            if new:
                print_log(f'downloading {address} to {path}', 'current')
                _download(address, part)
            got = _sum(part if new else path)
            if wanted and not got.startswith(wanted):
                where = '' if new else f". It lies in '{path}'"
                raise InputError(
                    f"checkpoint '{address}' has sha256 {got}, expected {wanted}; the file is damaged or another{where}"
                )
            if new:
                os.replace(part, path)
        except (OSError, ValueError) as error:
            reason = getattr(error, 'reason', None) or error
            raise InputError(
                f"checkpoint '{address}' cannot be downloaded ({reason}). Without a network: copy the file to '{path}'"
            ) from error
        finally:
            part.unlink(missing_ok=True)
    if new and not wanted:
        print_log(
            f'{address} has no checksum. To be sure of the file in the future: {address}#sha256={got}', 'current', 30
        )
    return path


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


def _sum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open('rb') as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
