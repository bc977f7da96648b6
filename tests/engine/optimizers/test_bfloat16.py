import torch
from torch import nn

from mmsec.registry import OPTIM_WRAPPERS


def test_forward_runs_in_bfloat16_and_weights_stay_float32():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    wrapper = OPTIM_WRAPPERS.build(dict(type='mmsec.BFloat16OptimWrapper', optimizer=optimizer))
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(1, 4))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight, before - 1)
