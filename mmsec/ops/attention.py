"""Attention inside clusters. It takes a grouping and does not know who made it."""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from mmsec.ops.clustering import Grouping, cluster_sizes


class _TakeRows(torch.autograd.Function):
    """Permute rows; the backward is the permutation by the inverse: no scatter-add, deterministic."""

    @staticmethod
    def forward(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        return x.index_select(0, index)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, index, inverse = inputs
        ctx.save_for_backward(index, inverse)

    @staticmethod
    def backward(ctx, grad: Tensor):
        index, inverse = ctx.saved_tensors
        return _TakeRows.apply(grad, inverse, index), None, None


def cluster_attention(q: Tensor, k: Tensor, v: Tensor, grouping: Grouping | None) -> Tensor:
    """Softmax attention of each token over the tokens of its own cluster, scaled by d^(-1/2).

    Args:
        q (Tensor): (B, N, h, d) queries in raster order.
        k (Tensor): (B, N, h, d) keys.
        v (Tensor): (B, N, h, d) values.
        grouping (Grouping, optional): The clusters; None for attention over all tokens.

    Returns:
        Tensor: (B, N, h, d) in raster order.

    Source: Semantic Equitable Clustering (arXiv 2405.13337), section 3.2.
    """
    if grouping is None:
        return _attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)  # (B, h, N, d) inside
    batch, num_tokens, heads, _ = q.shape
    index, inverse = row_indices(grouping)
    q, k, v = (take_rows(x.reshape(-1, x.shape[-1]), index, inverse) for x in (q, k, v))  # (B*h*N, d)
    runs = [(count * batch * heads, length) for count, length in _runs(num_tokens, grouping.num_clusters)]
    parts = zip(*(x.split([count * size for count, size in runs]) for x in (q, k, v)), strict=True)
    out = [_attention_in_runs(*part, *run) for part, run in zip(parts, runs, strict=True)]
    rows = torch.cat(out) if len(out) > 1 else out[0]
    return take_rows(rows, inverse, index).unflatten(0, (batch, num_tokens, heads))


def row_indices(grouping: Grouping) -> tuple[Tensor, Tensor]:
    """The grouping as one permutation of the B*N*h rows (image, token, head) that tokens are stored in.

    Clusters come out one after the other, first those of one length of all images and heads, then those of the other.

    Args:
        grouping (Grouping): The clusters.

    Returns:
        tuple[Tensor, Tensor]: (B*N*h,) int64 rows to take, and the inverse permutation.
    """
    order, inverse, num_clusters = grouping
    batch, heads, num_tokens = order.shape
    split = math.prod(_runs(num_tokens, num_clusters)[0])  # sorted places that belong to the first kind
    image = torch.arange(batch, device=order.device)[:, None, None]
    head = torch.arange(heads, device=order.device)[:, None]
    rows = (image * num_tokens + order) * heads + head  # (B, h, N)
    list_ = image * heads + head  # (B, h, 1), which of the B*h sorted lists
    short = batch * heads * split + list_ * (num_tokens - split) - split
    place = torch.arange(num_tokens, device=order.device)
    places = torch.where(place < split, list_ * split, short) + place  # (B, h, N), where sorted tokens stand
    index = torch.empty_like(rows).flatten().scatter_(0, places.flatten(), rows.flatten())
    return index, places.gather(-1, inverse).transpose(1, 2).flatten()


def explain_attention(q: Tensor, k: Tensor, v: Tensor) -> dict[str, str]:
    """Say which kernel :func:`cluster_attention` takes for such tensors, and why not the others.

    Args:
        q (Tensor): (B, N, h, d) queries; the type, the device, d and whether a gradient is wanted decide.
        k (Tensor): (B, N, h, d) keys.
        v (Tensor): (B, N, h, d) values.

    Returns:
        dict[str, str]: 'chosen' or the reason against it, for PyTorch's 'flash_attention', 'efficient_attention',
        'cudnn_attention' and 'math', and for 'products', two oneDNN products around a softmax.
    """
    against_products = _against_products(q, k, v)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, h, N, d)
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
    if against_products:
        return reasons | {chosen: 'chosen', 'products': against_products}
    return reasons | {chosen: 'could run; products are faster', 'products': 'chosen'}


def take_rows(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Permute rows; swap ``index`` and ``inverse`` to undo it bit for bit.

    Args:
        x (Tensor): (R, d).
        index (Tensor): (R,) int64 permutation; output row ``i`` is ``x[index[i]]``.
        inverse (Tensor): (R,) int64, its inverse; the backward takes rows by it, so gradients are deterministic.

    Returns:
        Tensor: (R, d).
    """
    return _TakeRows.apply(x, index, inverse)


def _runs(num_tokens: int, num_clusters: int) -> list[tuple[int, int]]:
    """How many clusters of which length stand in a sorted list; at most two kinds, no kind is empty."""
    num_long, num_short, length = cluster_sizes(num_tokens, num_clusters)
    if torch.compiler.is_compiling():
        # One graph for maps with and without long clusters: where all are equal, the first is a kind of its own.
        # Written with // because Inductor would make a guard, and so a second graph, of max(num_long, 1).
        first = num_long + num_short // num_clusters
        return [(first, -(-num_tokens // num_clusters)), (num_clusters - first, length)]
    return [(num_long, length + 1), (num_short, length)] if num_long else [(num_short, length)]


def _attention_in_runs(q: Tensor, k: Tensor, v: Tensor, count: int, length: int) -> Tensor:
    """Attention inside ``count`` contiguous runs of ``length`` rows; (count * length, d) in and out."""
    q, k, v = (x.unflatten(0, (count, 1, length)) for x in (q, k, v))  # (count, 1, L, d)
    return _attention(q, k, v).flatten(0, 2)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, (..., L, d) in and out, by the kernel that :func:`explain_attention` names."""
    if _against_products(q, k, v):
        return F.scaled_dot_product_attention(q, k, v)
    return _attention_in_products(*(x.flatten(0, 1) for x in (q, k, v))).view(q.shape)


def _against_products(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why :func:`_attention_in_products` is not the kernel for such tensors; None where it is."""
    if q.device.type != 'cpu' or q.dtype != torch.bfloat16:
        return f"PyTorch's own kernels are the faster ones for {q.dtype} on {q.device.type}"
    if torch.compiler.is_compiling():
        return 'not under torch.compile'
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return 'would keep every attention matrix for the backward'
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return 'not for this processor: it has no bfloat16 products, or AMX, which PyTorch uses by itself'
    return None


def _attention_in_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as two oneDNN products around a softmax, (n, L, d) in and out, a cache-sized piece at a time.

    PyTorch's CPU kernel multiplies bfloat16 by MKL, which gains nothing over float32 without AMX; oneDNN takes half
    the time (docs/performance.md).
    """
    entries = 2**20  # of the attention matrix at a time: 2 MiB
    count, length, dim = q.shape
    rows = max(1, min(length, entries // length))
    lists = max(1, entries // (length * rows))
    out, k = torch.empty_like(q), k.transpose(1, 2)
    for i in range(0, count, lists):
        for j in range(0, length, rows):
            part = q[i : i + lists, j : j + rows]
            scores = torch.baddbmm(part.new_empty(()), part, k[i : i + lists], beta=0, alpha=dim**-0.5)
            out[i : i + lists, j : j + rows] = scores.softmax(-1) @ v[i : i + lists]
    return out
