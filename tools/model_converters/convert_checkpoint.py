"""Write the backbone of a checkpoint, published or trained here, as a plain state dict of mmsec's SecViT."""

import argparse
import io
from pathlib import Path

import torch

from mmsec.engine.files import write_whole
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.models.checkpoints import secvit
from mmsec.models.checkpoints.loading import backbone_weights, of_other_parts
from mmsec.models.checkpoints.reading import read_checkpoint


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', metavar='IN', help='checkpoint to read')
    parser.add_argument('target', metavar='OUT', help='file to write')
    return parser.parse_args()


def main() -> None:
    """Convert."""
    args = parse_args()
    weights, others = backbone_weights(read_checkpoint(args.source))
    state, dropped = secvit.convert(weights)
    if 'patch_embed.proj.0.weight' not in state:
        raise InputError(f"checkpoint '{args.source}' holds no SecViT: it has no patch_embed.proj.0.weight")
    target = Path(args.target)
    content = io.BytesIO()
    torch.save({'state_dict': state}, content)
    write_whole(target, content.getvalue())
    print(f'{len(state)} weights in {target}; left out: {", ".join(of_other_parts(others) + dropped) or "nothing"}')


if __name__ == '__main__':
    run(main)
