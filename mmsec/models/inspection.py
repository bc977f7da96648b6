"""A look at which tokens a backbone puts together, on given images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmsec.models.backbones.base import Backbone
from mmsec.models.layers.cluster_attention import TokenClusters


@torch.no_grad()
def token_clusters(
    backbone: Backbone, x: Tensor, stages: Sequence[int] | None = None, block: int = -1
) -> list[TokenClusters]:
    """Look at the clusters that attention uses, in one pass, with the backbone in evaluation mode.

    Args:
        backbone (Backbone): Its attention layers answer for their inputs by ``clusters``.
        x (Tensor): (B, in_channels, H, W) images.
        stages (Sequence[int], optional): Stages from 0, as in ``out_indices``. Default: None, all that are built.
        block (int): Block of each stage from 0, or from its end if negative. Default: -1.

    Returns:
        list[TokenClusters]: For each stage that was asked for, in that order.

    Raises:
        ValueError: If there is no such stage or block.
    """
    if stages is None:
        stages = range(len(backbone.attention_layers()))
    layers: list[Any] = [attention_layer(backbone, stage, block) for stage in stages]
    return [layer.clusters(*given) for layer, given in zip(layers, inputs_of(backbone, x, layers), strict=True)]


@torch.no_grad()
def inputs_of(backbone: Backbone, x: Tensor, layers: Sequence[nn.Module]) -> list[tuple]:
    """What layers are given in one pass of images (B, in_channels, H, W), with the backbone in evaluation mode."""
    seen: dict[nn.Module, tuple] = {}
    hooks = [layer.register_forward_pre_hook(seen.__setitem__) for layer in layers]
    modes = [(module, module.training) for module in backbone.modules()]
    try:
        backbone.eval()
        backbone(x)
        return [seen[layer] for layer in layers]
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:  # parts may have had a mode of their own
            module.training = training


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes, by the first part that says so: our backbone, or a convolution."""
    return next((part.in_channels for part in model.modules() if isinstance(part, (Backbone, nn.Conv2d))), 3)


def scales_of(backbone: Backbone, stage: int) -> tuple[str, ...]:
    """Names of the scales at which the heads of a stage share their clusters; none where each head has its own."""
    return getattr(attention_layer(backbone, stage), 'scales', ())


def attention_layer(backbone: Backbone, stage: int, block: int = -1) -> nn.Module:
    """The attention layer of a block of a stage, both from 0, or from the end if negative; a ValueError without one."""
    layers = backbone.attention_layers()
    if not 0 <= stage < len(layers):
        raise ValueError(f'stage must be in [0, {len(layers) - 1}], got {stage}')
    if not -len(layers[stage]) <= block < len(layers[stage]):
        raise ValueError(f'stage {stage} has {len(layers[stage])} blocks, got block {block}')
    return layers[stage][block]
