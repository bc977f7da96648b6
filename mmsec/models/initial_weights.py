"""Random weights for short schedules."""

from collections.abc import Sequence

from mmengine.model import KaimingInit

from mmsec.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module()
class PyTorchDefault(KaimingInit):
    """PyTorch's default random weights, for the ``init_cfg`` of any part of a model that is MMEngine's.

    Weights are uniform within 1 / sqrt(fan-in), as in :class:`torch.nn.Linear`; biases are 0. SecViT's own default is a
    normal distribution of standard deviation 0.02, for long pre-training; docs/evidence.md compares the two.

    Args:
        layer (Sequence[str]): Names of the classes of layers that are drawn. Default: convolutions and linear layers.
    """

    def __init__(self, layer: Sequence[str] = ('Conv2d', 'Linear')) -> None:
        super().__init__(a=5**0.5, mode='fan_in', nonlinearity='leaky_relu', distribution='uniform', layer=list(layer))
