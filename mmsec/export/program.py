"""A model -> the content of an ONNX file."""

import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram

from mmsec.errors import InputError
from mmsec.export.translations import translations
from mmsec.ops import Grouping, plain_torch
from mmsec.ops.grouping import GroupingMethod

if TYPE_CHECKING:
    import onnx_ir

OPSET = 20
"""Version of ONNX's operators, the first with GELU."""

MIN_SIZE = 64
"""Smallest height and width of a graph for any size: maps of stride 32 then have two rows and columns."""

_NATIVE = ('aten', 'prim', 'prims', '_operator')  # whose operators PyTorch's exporter takes apart
_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


class Exported(NamedTuple):
    """What :func:`export` made.

    Attributes:
        content (bytes): The ONNX file.
        watched (bytes): The same, which also returns the inverse permutation of each grouping, (B, h, N) int64.
        layers (tuple[str, ...]): Where in the model these groupings are made, in the order they are returned.
    """

    content: bytes
    watched: bytes
    layers: tuple[str, ...]


class Watched(nn.Module):
    """A model that returns also what its groupings made.

    Args:
        model (nn.Module): Takes images; returns a tensor or a tuple of them.

    Attributes:
        methods (dict[str, GroupingMethod]): Every way of grouping in the model, by its dotted name.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.methods = {name: each for name, each in model.named_modules() if isinstance(each, GroupingMethod)}

    def forward(self, images: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """(B, 3, H, W) -> the model's outputs, and the inverse permutation of each grouping that was made."""
        outputs, groupings = self.look(images)
        return outputs, [grouping.inverse for grouping in groupings.values()]

    def look(self, images: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Grouping]]:
        """(B, 3, H, W) -> the model's outputs, and each grouping that was made, by the name of its method."""
        seen: dict[str, Grouping] = {}
        hooks = [
            method.register_forward_hook(lambda module, inputs, grouping, name=name: seen.update({name: grouping}))
            for name, method in self.methods.items()
        ]
        try:
            outputs = self.model(images)
        finally:
            for hook in hooks:
                hook.remove()
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs), seen


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
        images (Tensor): (B, 3, H, W); the graph is made for this size.
        names (Sequence[str]): What the outputs are called in the file. The input is called ``images``.
        dynamic (bool): Whether the graph takes any number of images of any size from :data:`MIN_SIZE` on. Default:
            False, the number and size of ``images``.
        notes (Mapping[str, str], optional): What the file says of itself; ``metadata_props`` in ONNX.

    Returns:
        Exported: The content of the file.

    Raises:
        InputError: If a package is missing, or the model cannot be exported; why, and what can be done.
    """
    require_packages()
    watched = Watched(model).eval()
    with plain_torch(), _quiet():
        _, seen = watched.look(images)  # what does not run at all is no question of ONNX
        program = _trace(watched, images, dynamic)
        _check_operators(program, model)
        graph = _convert(program, [*names, *(f'inverse of {layer}' for layer in seen)], model)
    watched_content = _serialized(graph, notes or {})
    del graph.graph.outputs[len(names) :]
    return Exported(_serialized(graph, notes or {}), watched_content, tuple(seen))


def require_packages() -> None:
    """Check that what export needs is installed.

    Raises:
        InputError: Names what is missing, and what installs it.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX needs {' and '.join(missing)}, not installed here: pip install -e '.[onnx]'")


def _trace(watched: Watched, images: Tensor, dynamic: bool) -> ExportedProgram:
    """The model as one graph of PyTorch's operators."""
    shapes = ({0: Dim('batch', min=1), 2: Dim('height', min=MIN_SIZE), 3: Dim('width', min=MIN_SIZE)},)
    try:
        return torch.export.export(watched, (images,), dynamic_shapes=shapes if dynamic else None, strict=False)
    except Exception as error:  # torch.export has no common error: user, guard, assertion, runtime
        name, size = type(watched.model).__name__, 'x'.join(map(str, images.shape[2:]))
        raise InputError(
            f'{name} cannot be exported for {"any size" if dynamic else size}, its steps depend on '
            f'{"the size" if dynamic else "the image"} ({_reason(error)})'
            + '. One size can be exported: leave out --dynamic'
            * dynamic
        ) from error


def _check_operators(program: ExportedProgram, model: nn.Module) -> None:
    """Refuse operators that are not PyTorch's own, for which there is nothing in ONNX."""
    for node in program.graph.nodes:
        if isinstance(node.target, OpOverload) and node.target.namespace not in _NATIVE:
            stack = [name for name, _ in node.meta.get('nn_module_stack', {}).values()]
            where = stack[-1].removeprefix('model.') if stack else ''
            raise InputError(
                f'{type(model).__name__} cannot be exported: {where or "it"} uses {node.target.namespace}::'
                f'{node.target._opname}, an operator of its own that ONNX does not have. '
                'docs/onnx.md lists what can be exported'
            )


def _convert(program: ExportedProgram, names: list[str], model: nn.Module) -> 'onnx_ir.Model':
    """The graph in operators of ONNX."""
    try:
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=['images'],
            output_names=names,
            custom_translation_table=translations(),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise InputError(f'{type(model).__name__} cannot be exported: {_reason(error)}') from error
    assert converted is not None  # None is for PyTorch's older exporter
    graph = converted.model
    foreign = sorted({node.domain for node in graph.graph.all_nodes()} - {'', 'ai.onnx'})
    if foreign:
        raise InputError(f'{type(model).__name__} cannot be exported: parts are in no domain of ONNX, but in {foreign}')
    return graph


def _reason(error: BaseException) -> str:
    """What an error of the exporter says, in one line."""
    lines = [line.strip(' -') for line in str(error).splitlines() if line.strip(' -')]
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error))
    if missing:
        return f'ONNX has no operator for {missing[1]}'
    inner = re.search(r"^<class '[\w.]+'>: (.*)", str(error), re.MULTILINE)
    if inner:
        return inner[1]
    if lines and lines[0].startswith('Constraints violated'):
        return lines[1].replace("L['images'].size()", 'size')
    return lines[0] if lines else type(error).__name__


def _serialized(graph: 'onnx_ir.Model', notes: Mapping[str, str]) -> bytes:
    """The content of a file, without what no output needs, and without the paths and lines of the code it is from."""
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

    for tidy in (RemoveUnusedNodesPass(), ClearMetadataAndDocStringPass()):
        tidy(graph)
    graph.metadata_props.update(notes)
    return onnx_ir.to_proto(graph).SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of the exporter on packages, coming versions and optimizations."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'onnx_ir')]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FutureWarning)
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
