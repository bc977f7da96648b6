"""What tools do where there is no GPU."""

from torch import nn

from mmsec.models.backbones.base import Backbone
from mmsec.ops.kernels import cpu


def optimize_on_cpu(model: nn.Module) -> None:
    """Make the backbones of a model faster that are on a CPU; see :func:`mmsec.ops.kernels.cpu.optimize`."""
    for backbone in [module for module in model.modules() if isinstance(module, Backbone)]:
        if all(p.device.type == 'cpu' for p in backbone.parameters()):
            cpu.optimize(backbone)
