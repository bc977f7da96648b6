import torch
from mmengine.model import BaseModule
from torch import nn

from mmsec.models import SecViT

DEFAULT = dict(type='mmsec.PyTorchDefault')


class Host(BaseModule):
    """A backbone of somebody else, with weights that are far from any default."""

    def __init__(self, init_cfg):
        super().__init__(init_cfg)
        self.layers = nn.Sequential(nn.Conv2d(8, 16, 3, groups=2), nn.BatchNorm2d(16), nn.Linear(100, 50))
        nn.init.constant_(self.layers[2].weight, 7.0)


def test_weights_are_drawn_as_pytorch_draws_them_and_biases_are_0():
    torch.manual_seed(0)
    for model in (SecViT('tiny', init_cfg=DEFAULT), Host(DEFAULT)):
        model.init_weights()
        layers = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
        assert layers
        for each in layers:
            bound = each.weight[0].numel() ** -0.5
            largest = each.weight.abs().max()
            assert 0.9 * bound < largest <= bound
            assert each.bias is None or not each.bias.any()


def test_layers_that_are_not_named_stay():
    model = Host(dict(DEFAULT, layer=['Conv2d']))
    model.init_weights()
    assert (model.layers[2].weight == 7).all()
    assert model.layers[0].weight.abs().max() <= 36**-0.5
