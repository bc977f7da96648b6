"""A model -> the content of an ONNX file, and how far onnxruntime agrees with torch on it."""

import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmsec import compat
from mmsec.errors import InputError
from mmsec.export.translations import translations
from mmsec.ops import Grouping, cluster_ids, plain_torch
from mmsec.ops.grouping import GroupingMethod

MIN_SIZE = 64
"""Smallest height and width of a dynamic graph: maps of stride 32 then have two rows and columns."""

_OPSET = 20  # version of ONNX's operators, the first with GELU
_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
_BASELINES = {'ClusteredSwin', 'KMeansGrouping', 'ProjectionGrouping', 'RandomGrouping'}


class Exported(NamedTuple):
    """An ONNX file, and the same that also returns the inverse permutation of each grouping, (B, h, N) int64."""

    content: bytes
    watched: bytes


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


class _Watched(nn.Module):
    """A model that also returns the inverse permutations of the groupings it makes, in the order in which it does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        outputs, made = self.look(images)
        return outputs, [grouping.inverse for grouping in made]

    def look(self, images: Tensor, orders: Sequence[Tensor] = ()) -> tuple[tuple[Tensor, ...], list[Grouping]]:
        """The model's outputs and the groupings that it made; ``orders`` replace theirs."""
        made: list[Grouping] = []

        def see(module: nn.Module, inputs: tuple, grouping: Grouping) -> Grouping:
            made.append(grouping)
            return grouping._replace(order=orders[len(made) - 1]) if orders else grouping

        with ExitStack() as hooks:
            for module in self.model.modules():
                if isinstance(module, GroupingMethod):
                    hooks.callback(module.register_forward_hook(see).remove)
            outputs = self.model(images)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs), made


@torch.no_grad()
def export(
    model: nn.Module,
    images: Tensor,
    names: Sequence[str],
    dynamic: bool = False,
    notes: Mapping[str, str] | None = None,
) -> Exported:
    """Make an ONNX file of ONNX's own operators alone.

    Args:
        model (nn.Module): In evaluation mode; takes images, returns a tensor or a tuple of them.
        images (Tensor): (B, C, H, W); the graph is made for this size.
        names (Sequence[str]): What the outputs are called in the file. The input is called ``images``.
        dynamic (bool): Whether the graph takes any number of images of any size from :data:`MIN_SIZE` on. Default:
            False, the number and size of ``images``.
        notes (Mapping[str, str], optional): ``metadata_props`` of the file.

    Returns:
        Exported: The content of the file.

    Raises:
        InputError: If a package is missing, or the model cannot be exported; why, and what can be done.
    """
    require_packages()
    from torch.export import Dim

    refused = f'{type(model).__name__} cannot be exported'
    for module in model.modules():
        if type(module).__name__ in _BASELINES:
            raise InputError(f'{refused}: {type(module).__name__} is a baseline for ablations, without ONNX')
    watched = _Watched(model).eval()
    sizes = {0: Dim('batch', min=1), 2: Dim('height', min=MIN_SIZE), 3: Dim('width', min=MIN_SIZE)}
    with plain_torch(), _quiet():
        _, made = watched.look(images)  # an error of the model itself is none of the export
        try:
            program = torch.export.export(
                watched, (images,), dynamic_shapes=(sizes,) if dynamic else None, strict=False
            )
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=_OPSET,
                input_names=['images'],
                output_names=[*names, *(f'inverse{i}' for i in range(len(made)))],
                custom_translation_table=translations(),
                verbose=False,
            )
        except Exception as error:  # torch.export has no common error: user, guard, assertion, runtime
            hint = ' for any size ({}). Leave out --dynamic to try one size' if dynamic else ': {}'
            raise InputError(refused + hint.format(_reason(error))) from error
    graph: Any = converted.model if converted else None  # None is for PyTorch's older exporter
    foreign = sorted({node.domain for node in graph.graph.all_nodes()} - {'', 'ai.onnx'})
    if foreign:
        raise InputError(f'{refused}: parts are in no domain of ONNX, but in {foreign}')
    watched_content = _serialized(graph, notes or {})
    del graph.graph.outputs[len(names) :]
    return Exported(_serialized(graph, notes or {}), watched_content)


@torch.no_grad()
def verify(model: nn.Module, exported: Exported, images: Tensor) -> Agreement:
    """Compare onnxruntime with torch.

    Scores of two tokens may differ by less than rounding, and then fall in another order. What follows in the model
    then differs by more than rounding. So the outputs are compared twice, and once torch takes onnxruntime's order.

    Args:
        model (nn.Module): The model of which ``exported`` was made.
        exported (Exported): From :func:`export`.
        images (Tensor): (B, C, H, W) of a size that it takes.

    Returns:
        Agreement: Of all outputs.
    """
    from_file, found = run(exported.content, images), run(exported.watched, images)
    orders = [inverse.argsort(dim=-1) for inverse in found[len(from_file) :]]
    watched = _Watched(model)
    with plain_torch():
        outputs, made = watched.look(images)
        same_order, _ = watched.look(images, orders)
    moved = [
        (cluster_ids(grouping) != cluster_ids(grouping._replace(order=order))).flatten()
        for grouping, order in zip(made, orders, strict=True)
    ]
    return Agreement(
        max(map(_difference, found, same_order)),
        max(map(_difference, from_file, outputs)),
        torch.cat(moved).float().mean().item() if moved else None,
    )


def require_packages() -> None:
    """Raise an InputError that names what export needs and is not installed, and what installs it."""
    if why := compat.why_not('ONNX export'):
        raise InputError(why)
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX needs {' and '.join(missing)}, not installed here: pip install -e '.[onnx]'")


def session(content: bytes, threads: int = 0) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU; 0 leaves the number of threads to onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; warnings are on constants it could not fold
    return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])


def run(content: bytes, images: Tensor) -> list[Tensor]:
    """All outputs that onnxruntime computes on the CPU."""
    return [torch.from_numpy(each) for each in session(content).run(None, {'images': images.numpy()})]


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest absolute value."""
    return ((found - wanted).abs().amax() / wanted.abs().amax().clamp_min(torch.finfo(wanted.dtype).tiny)).item()


def _reason(error: BaseException) -> str:
    """One line of an error of the exporter."""
    if missing := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error)):
        return f'ONNX has no operator for {missing[1]}'
    inner = re.search(r"^<class '[\w.]+'>: (.*)", str(error), re.MULTILINE)
    lines = [line.strip(' -') for line in (inner[1] if inner else str(error)).splitlines() if line.strip(' -')]
    if lines and lines[0].startswith('Constraints violated'):
        return lines[1].replace("L['images'].size()", 'size')
    return lines[0] if lines else type(error).__name__


def _serialized(graph: Any, notes: Mapping[str, str]) -> bytes:
    """The content of a file, without unused nodes, and without paths and lines of the code that it is from."""
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

    for tidy in (RemoveUnusedNodesPass(), ClearMetadataAndDocStringPass()):
        tidy(graph)
    graph.metadata_props.update(notes)
    return onnx_ir.to_proto(graph).SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of the exporter on packages, coming versions and optimizations."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FutureWarning)
            yield
    finally:
        logging.disable(logging.NOTSET)
