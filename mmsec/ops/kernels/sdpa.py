"""PyTorch's own attention: which of its kernels runs."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsec import compat
from mmsec.ops.kernels.dispatch import Kernel


def explain_choice(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> dict[str, str]:
    """Say which of PyTorch's own kernels takes attention over such tensors, and why not the others.

    Args:
        q (Tensor): (n, m, L, d) queries; the type, the device, d and whether a gradient is wanted decide.
        k (Tensor): (n, m, L, d) keys.
        v (Tensor): (n, m, L, d) values.
        bias (Tensor, optional): Added to the logits, of a shape that can be expanded to (n, m, L, L).

    Returns:
        dict[str, str]: 'chosen' or the reason against it, for 'flash_attention', 'efficient_attention',
        'cudnn_attention' and 'math'.
    """
    chosen = compat.torch_attention.SDPBackend(torch._fused_sdp_choice(q, k, v, bias)).name.lower()
    reasons = {'math': 'the slowest; taken only where no other kernel can run'}
    for name in ('flash_attention', 'efficient_attention', 'cudnn_attention'):
        if not q.is_cuda:
            reasons[name] = f'cannot run on {q.device.type} tensors of {q.dtype}'
            continue
        can_use = getattr(torch.backends.cuda, f'can_use_{name}', None)
        if can_use is None:
            reasons[name] = f'torch {torch.__version__} does not say'
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            usable = can_use(torch.backends.cuda.SDPAParams(q, k, v, bias, 0.0, False, False), debug=True)
        said = ' '.join(str(warning.message).split(' (Triggered')[0] for warning in caught)
        reasons[name] = f'could run; PyTorch prefers {chosen}' if usable else said or 'PyTorch gives no reason'
    return reasons | {chosen: 'chosen'}


def _against_leaving_out(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> str | None:
    if not compat.CUDNN_ATTENTION:
        return 'this torch has no attention of cuDNN'
    return None if q.is_cuda else f'not on {q.device.type}'


# In half precision on Hopper and later PyTorch takes cuDNN first, which makes a plan for each new shape: 80 to 120
# milliseconds on an H200, where flash attention is as fast (docs/performance.md). Training at several scales has
# hundreds of shapes.
def _no_cudnn() -> AbstractContextManager[None]:
    if compat.is_compiling():  # which knows this way alone
        backends = compat.torch_attention.SDPBackend
        return compat.torch_attention.sdpa_kernel(
            [backends.FLASH_ATTENTION, backends.EFFICIENT_ATTENTION, backends.MATH]
        )
    return _switched_off()


@contextmanager
def _switched_off() -> Iterator[None]:
    # A tenth of the time that sdpa_kernel takes, which is 35 microseconds in each layer.
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def _without_cudnn(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    with _no_cudnn():
        return F.scaled_dot_product_attention(q, k, v, bias)


def _explain_without_cudnn(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> dict[str, str]:
    with _no_cudnn():
        return explain_choice(q, k, v, bias)


WITHOUT_CUDNN = Kernel('without cuDNN', _against_leaving_out, _without_cudnn, _explain_without_cudnn, in_graphs=True)
