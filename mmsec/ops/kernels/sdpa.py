"""PyTorch's own attention: which of its kernels runs."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmsec.ops.kernels.front import Kernel

# In half precision on Hopper and later PyTorch takes cuDNN first, which makes a plan for each new shape. Training at
# several scales has hundreds of shapes.
_ORDER = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
]


def explain_choice(q: Tensor, k: Tensor, v: Tensor) -> dict[str, str]:
    """Say which of PyTorch's own kernels takes attention over such tensors, and why not the others.

    Args:
        q (Tensor): (n, m, L, d) queries; the type, the device, d and whether a gradient is wanted decide.
        k (Tensor): (n, m, L, d) keys.
        v (Tensor): (n, m, L, d) values.

    Returns:
        dict[str, str]: 'chosen' or the reason against it, for 'flash_attention', 'efficient_attention',
        'cudnn_attention' and 'math'.
    """
    chosen = SDPBackend(torch._fused_sdp_choice(q, k, v)).name.lower()
    reasons = {'math': 'the slowest; taken only where no other kernel can run'}
    for name in ('flash_attention', 'efficient_attention', 'cudnn_attention'):
        if not q.is_cuda:
            reasons[name] = f'cannot run on {q.device.type} tensors of {q.dtype}'
            continue
        can_use = getattr(torch.backends.cuda, f'can_use_{name}')
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            usable = can_use(torch.backends.cuda.SDPAParams(q, k, v, None, 0.0, False, False), debug=True)
        said = ' '.join(str(warning.message).split(' (Triggered')[0] for warning in caught)
        reasons[name] = f'could run; PyTorch prefers {chosen}' if usable else said or 'PyTorch gives no reason'
    return reasons | {chosen: 'chosen'}


def _against_flash_first(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    return None if q.is_cuda else f'not on {q.device.type}'


def _flash_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(_ORDER, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v)


def _explain_flash_first(q: Tensor, k: Tensor, v: Tensor) -> dict[str, str]:
    with sdpa_kernel(_ORDER, set_priority=True):
        return explain_choice(q, k, v)


FLASH_FIRST = Kernel('flash before cuDNN', _against_flash_first, _flash_first, _explain_flash_first)
