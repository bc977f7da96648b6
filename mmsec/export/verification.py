"""How far onnxruntime agrees with torch on an exported model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmsec.export.program import Exported, Watched
from mmsec.ops import cluster_ids, plain_torch
from mmsec.ops.grouping.grouping import part_of


class Agreement(NamedTuple):
    """How far onnxruntime and torch agree on some images.

    Attributes:
        same_order (float): Largest difference of an output where torch takes the groupings that onnxruntime made, over
            the largest absolute value of that output: rounding alone, if the file is right.
        own_order (float): The same where each makes its own groupings.
        moved (float, optional): Share of tokens, over all layers, images and heads, that onnxruntime put into another
            cluster than torch did; None where nothing is grouped.
    """

    same_order: float
    own_order: float
    moved: float | None


@torch.no_grad()
def verify(model: nn.Module, exported: Exported, images: Tensor) -> Agreement:
    """Compare onnxruntime with torch.

    Scores of two tokens may differ by less than rounding, and then fall in another order. What follows in the model
    then differs by more than rounding. So the outputs are compared twice, and once torch takes onnxruntime's order.

    Args:
        model (nn.Module): What was exported.
        exported (Exported): From :func:`mmsec.export.export`.
        images (Tensor): (B, 3, H, W) of a size that it takes.

    Returns:
        Agreement: Of all outputs.
    """
    from_file = run(exported.content, images)
    found = run(exported.watched, images)
    inverses = dict(zip(exported.layers, found[len(from_file) :], strict=True))
    watched = Watched(model)
    with plain_torch():
        outputs, groupings = watched.look(images)
        with_theirs = _with_groupings(watched, images, inverses)
    moved = [
        _ids(inverse, groupings[layer].num_clusters) != cluster_ids(groupings[layer])
        for layer, inverse in inverses.items()
    ]
    return Agreement(
        max(_difference(*pair) for pair in zip(found[: len(from_file)], with_theirs, strict=True)),
        max(_difference(*pair) for pair in zip(from_file, outputs, strict=True)),
        torch.cat([each.flatten() for each in moved]).float().mean().item() if moved else None,
    )


def session(content: bytes, threads: int = 0) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        content (bytes): Of an ONNX file.
        threads (int): Threads of an operator; 0 leaves the choice to onnxruntime. Default: 0.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; warnings are on constants it could not fold
    return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])


def run(content: bytes, images: Tensor) -> list[Tensor]:
    """All outputs that onnxruntime computes on the CPU."""
    return [torch.from_numpy(each) for each in session(content).run(None, {'images': images.numpy()})]


def _with_groupings(watched: Watched, images: Tensor, inverses: dict[str, Tensor]) -> Sequence[Tensor]:
    """The model's outputs where its groupings are given."""
    hooks = [
        watched.methods[layer].register_forward_hook(
            lambda module, inputs, grouping, inverse=inverse: grouping._replace(order=inverse.argsort(dim=-1))
        )
        for layer, inverse in inverses.items()
    ]
    try:
        return watched.look(images)[0]
    finally:
        for hook in hooks:
            hook.remove()


def _ids(inverse: Tensor, num_clusters: int) -> Tensor:
    """The cluster of each token, (B, h, N)."""
    return part_of(inverse, inverse.shape[-1], num_clusters)


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest absolute value."""
    return ((found - wanted).abs().amax() / wanted.abs().amax().clamp_min(torch.finfo(wanted.dtype).tiny)).item()
