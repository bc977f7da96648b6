"""Make a file to publish of a checkpoint: the weights alone, the first digits of its sum in its name."""

import argparse
import hashlib
import io
from pathlib import Path

import torch

from mmsec.engine.files import write_whole
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.models.checkpoints.reading import read_checkpoint


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', metavar='IN', help='checkpoint of a run')
    parser.add_argument('folder', metavar='FOLDER', help='where the file goes')
    parser.add_argument(
        '--name', help="the file's name without its sum and ending (default: that of the config's work dir)"
    )
    parser.add_argument('--format', choices=['pth', 'safetensors'], default='pth', help='(default: %(default)s)')
    return parser.parse_args()


def content_of(state: dict, form: str) -> bytes:
    """The bytes of a file with these weights."""
    if form == 'pth':
        buffer = io.BytesIO()
        torch.save({'state_dict': state, 'meta': {}}, buffer)
        return buffer.getvalue()
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise InputError('--format safetensors needs a package: pip install safetensors') from error
    return save({key: value.contiguous().clone() for key, value in state.items()})


def main() -> None:
    """Publish."""
    args = parse_args()
    checkpoint = read_checkpoint(args.source)
    state = checkpoint.get('state_dict', checkpoint)
    name = args.name or Path(args.source).resolve().parent.name
    content = content_of(state, args.format)
    digest = hashlib.sha256(content).hexdigest()
    target = Path(args.folder) / f'{name}-{digest[:8]}.{args.format}'
    write_whole(target, content)
    print(f'{len(state)} weights in {target}')
    print(f'sha256 {digest}\nin metafile.yml, for the entry {name}:\n  Weights: https://HOST/{target.name}')


if __name__ == '__main__':
    run(main)
