"""Learning rates that fall from the last layer of a backbone to its first."""

from typing import Any, ClassVar

from torch import nn

from mmsec.engine.optimizers.constructor import MergedOptimWrapperConstructor
from mmsec.errors import InputError
from mmsec.models.backbones.base import Backbone
from mmsec.registry import OPTIM_WRAPPER_CONSTRUCTORS

_PREFIX = 'backbone.'
_METHODS = {'layer_wise': 'get_layer_depth', 'stage_wise': 'get_stage_depth'}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimizerConstructor(MergedOptimWrapperConstructor):
    """Scale the rate of layer l of a backbone of L layers by ``decay_rate**(L + 1 - l)``.

    Layer 0 is the stem, layers 1 to L are the blocks, and layer L + 1, whose rate stays as it is, is all that comes
    after the backbone's last block. Every other rule of ``paramwise_cfg`` stays in force: the rate that it gives is
    the one that is scaled. Groups of equal settings are one group.

    ``paramwise_cfg`` takes, beside MMEngine's options:

    - ``decay_rate`` (float): In (0, 1].
    - ``decay_type`` (str): 'layer_wise', or 'stage_wise', where a stage takes the place of a layer and all its blocks
      have one rate. Default: 'layer_wise'.

    Layers are known of every backbone of mmsec, of Swin and ConvNeXt of the hosts, and of what has a method
    ``get_layer_depth`` (stages: ``get_stage_depth``), as backbones of mmpretrain have. What stands between two blocks
    or stages, such as a patch merging, counts with the one that follows it. Where each block is a stage, as in a plain
    ViT, stages are layers.
    """

    options: ClassVar[tuple[str, ...]] = ('decay_rate', 'decay_type', *MergedOptimWrapperConstructor.options)

    def _validate_cfg(self) -> None:
        """Refuse options that are missing, unknown, or have a value that cannot be used."""
        super()._validate_cfg()
        where = 'optim_wrapper.paramwise_cfg'
        rate = self.paramwise_cfg.get('decay_rate')
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise InputError(f'{where}.decay_rate must be in (0, 1], got {rate}')
        kind = self.paramwise_cfg.get('decay_type', 'layer_wise')
        if kind not in _METHODS:
            raise InputError(f'{where}.decay_type must be one of {tuple(_METHODS)}, got {kind!r}')
        if self.base_lr is None:
            raise InputError('optim_wrapper.optimizer.lr must be given where rates decay by layer')

    def adjusted(self, groups: list[dict], model: nn.Module) -> list[dict]:
        """Scale the rate of each parameter's group by its layer; refuses a backbone whose layers are not known."""
        depths = layer_depths(model, self.paramwise_cfg.get('decay_type', 'layer_wise'))
        names = {parameter: name for name, parameter in model.named_parameters()}
        of_groups = [(group, *depths[names[group['params'][0]]]) for group in groups]
        rate = self.paramwise_cfg['decay_rate']
        return [group | {'lr': group['lr'] * rate ** (count - 1 - layer)} for group, layer, count in of_groups]


def layer_depths(model: nn.Module, decay_type: str = 'layer_wise') -> dict[str, tuple[int, int]]:
    """To the name of each parameter its layer, or stage, and the number of them, which is the same for all.

    Raises:
        InputError: If the model has no backbone, or one whose layers are not known.
    """
    backbone: Any = getattr(model, 'backbone', None)
    if backbone is None:
        raise InputError(f'rates that decay by layer need a model with a backbone; {type(model).__name__} has none')
    names = [name for name, _ in model.named_parameters()]
    ask = getattr(backbone, _METHODS[decay_type], None)
    parts = _parts(backbone)
    if parts is not None and (ask is None or isinstance(backbone, Backbone)):
        return {name: _depth(backbone, parts, name, decay_type) for name in names}
    if ask is None:
        raise InputError(
            f'the {decay_type.replace("_wise", "s")} of {type(backbone).__name__} are not known: rates decay by layer '
            "for mmsec's backbones, for Swin and ConvNeXt, and for those with a method "
            f'{_METHODS[decay_type]}(name, prefix), which returns the layer and the number of layers'
        )
    return {name: ask(name, _PREFIX) for name in names}


def _parts(backbone: Any) -> list[list[nn.Module]] | None:
    """The modules of the stem, then those of each stage with what comes before it; None if they are not known."""
    kinds = {each.__name__ for each in type(backbone).__mro__}
    if isinstance(backbone, Backbone):
        return backbone.parts()
    if 'SwinTransformer' in kinds:  # its patch merging is the last part of a stage and counts with the next one
        before = [[], *([stage.downsample] for stage in list(backbone.stages)[:-1])]
        return [
            [backbone.patch_embed],
            *([*between, stage.blocks] for between, stage in zip(before, backbone.stages, strict=True)),
        ]
    if 'ConvNeXt' in kinds:  # by stages alone: it says its layers itself
        stem, *between = backbone.downsample_layers
        first, *others = backbone.stages
        return [[stem], [first], *([down, stage] for down, stage in zip(between, others, strict=True))]
    return None


def _depth(backbone: nn.Module, parts: list[list[nn.Module]], name: str, decay_type: str) -> tuple[int, int]:
    """Layer or stage of a parameter by the parts; blocks are the children of all modules named ``blocks``."""
    stem, *stages = parts
    lists = [module for name_, module in backbone.named_modules() if name_.split('.')[-1] == 'blocks']
    blocks = {block for each in lists for block in each.children()}
    last = (len(blocks) if decay_type == 'layer_wise' else len(stages)) + 1
    if not name.startswith(_PREFIX):
        return last, last + 1
    path = name.removeprefix(_PREFIX).split('.')[:-1]
    inside = [backbone.get_submodule('.'.join(path[: i + 1])) for i in range(len(path))]  # from the outermost in
    if not inside or any(module in stem for module in inside):
        return 0, last + 1
    passed = 0
    for i, stage in enumerate(stages, start=1):
        for module in (each for part in stage for each in part.modules()):
            passed += module in blocks
            if module is inside[-1]:
                layer = passed if blocks.intersection(inside) else passed + 1
                return (layer if decay_type == 'layer_wise' else i), last + 1
    return last, last + 1
