"""Write the backbone of a checkpoint, published or trained here, as a plain state dict of mmsec's SecViT."""

import argparse
import os
from pathlib import Path

import torch

from mmsec.engine import run
from mmsec.errors import InputError
from mmsec.models.checkpoint import backbone_state, read_checkpoint


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', metavar='IN', help='checkpoint to read')
    parser.add_argument('target', metavar='OUT', help='file to write')
    return parser.parse_args()


def main() -> None:
    """Convert."""
    args = parse_args()
    state, dropped = backbone_state(read_checkpoint(args.source))
    if 'patch_embed.proj.0.weight' not in state:
        raise InputError(f"checkpoint '{args.source}' holds no SecViT: it has no patch_embed.proj.0.weight")
    target = Path(args.target)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + '.part')
    torch.save({'state_dict': state}, unfinished)
    os.replace(unfinished, target)
    print(f'{len(state)} weights in {target}; left out: {", ".join(dropped) or "nothing"}')


if __name__ == '__main__':
    run(main)
