"""What tune_gpu.py times of kernels: the passes of each by kernels and in plain torch, on the same inputs."""

from collections.abc import Callable, Sequence

import torch
from baselines import DTYPES, precision
from torch import Tensor, nn

from mmsec import ops
from mmsec.ops.grouping import semantic
from mmsec.ops.kernels import table
from mmsec.ops.kernels.gpu import depthwise, lepe, norm, score, sort

Results = Sequence[Tensor]
Run = Callable[[], Results]
Passes = dict[str, Run]  # 'forward', and 'backward' where something learns
Work = tuple[Passes, Passes]  # by kernels, none where they do not serve, and in plain torch as it runs without Triton


def work(kernel: Run | None, plain: Run, leaves: Results, cell: dict, dtype: torch.dtype) -> Work:
    """The passes of two functions of these leaves; plain torch alone in float64, which kernels do not take."""
    exact = dtype == torch.float64
    return {} if exact or kernel is None else passes(kernel, leaves, cell, dtype), passes(plain, leaves, cell, dtype)


def passes(run: Run, leaves: Results, cell: dict, dtype: torch.dtype) -> Passes:
    """Forward without gradients; and backward from what one forward has given, if there are leaves."""

    def forward() -> Results:
        with table.use_table({}), precision('float32' if dtype == torch.float64 else cell['dtype'], cell['device']):
            return run()

    def ahead() -> Results:
        with torch.no_grad():
            return forward()

    if not leaves:
        return {'forward': ahead}
    outs = forward()
    torch.manual_seed(1)
    grads = [drawn(cell, dtype, *out.shape).to(out.dtype) for out in outs]

    def backward() -> Results:
        return torch.autograd.grad(outs, leaves, grads, retain_graph=True)

    return {'forward': ahead, 'backward': backward}


def drawn(cell: dict, dtype: torch.dtype, *shape: int) -> Tensor:
    """Random numbers that all types hold exactly which the cell's type holds."""
    return torch.randn(shape, device=cell['device']).to(DTYPES[cell['dtype']]).to(dtype)


def convolution(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> Work:
    """Depthwise convolution of (B, H, W, C): 'pos' with a residual of itself, 'ffn' behind a GELU, 'lepe' of values."""
    torch.manual_seed(0)
    channels, size, part = cell['channels'], cell['size'], cell['place']
    conv = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, device=cell['device'])
    conv = conv.to(torch.promote_types(dtype, torch.float32))
    wide = drawn(cell, dtype, *shape, 3 * channels if part == 'lepe' else channels)
    x, other = wide[..., -channels:].requires_grad_(), drawn(cell, dtype, *shape, channels)
    residual = other if part == 'lepe' else None

    def plain() -> Results:
        if part == 'ffn':
            return [ops.gelu_conv_residual(x, conv)]
        return [ops.conv_residual(x, conv, x if residual is None else residual)]

    def kernel() -> Results:
        return [depthwise.depthwise(x, conv.weight, conv.bias, residual, part == 'ffn')]

    return work(kernel, plain, [x, conv.weight, conv.bias], cell, dtype)


def layer_norm(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> Work:
    """A residual and the LayerNorm behind it."""
    torch.manual_seed(0)
    layer = nn.LayerNorm(cell['channels'], device=cell['device'])
    nn.init.normal_(layer.weight)  # in float32, as what is drawn next depends on the type
    layer = layer.to(torch.promote_types(dtype, torch.float32))
    x, branch = (drawn(cell, dtype, *shape, cell['channels']).requires_grad_() for _ in range(2))
    same = nn.Identity()
    return work(
        lambda: norm.residual_norm(x, branch, None, None, 1.0, layer.weight, layer.bias, layer.eps),
        lambda: ops.residual_norm(x, branch, same, same, layer),
        [x, branch, layer.weight, layer.bias],
        cell,
        dtype,
    )


def heads_of(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Callable[[], ops.Tokens]]:
    """A map of queries, keys and values (B, H, W, 3hd) for (B, H, W, h), and a function that gives the tokens in it."""
    batch, height, width, heads = shape
    torch.manual_seed(0)
    qkv = drawn(cell, dtype, batch, height, width, 3 * heads * cell['width']).requires_grad_()
    rotary = ops.rotary_table(height, width, cell['width'], dtype, torch.device(cell['device']))

    def tokens() -> ops.Tokens:
        parts = qkv.flatten(1, 2).unflatten(2, (3, heads, -1))
        return ops.Tokens(parts, parts[:, :, 0], (height, width), rotary)

    return qkv, tokens


def clusters(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> Work:
    """Rotation, and attention inside clusters of 'length' tokens at most, of a map (B, H, W, heads)."""
    qkv, tokens = heads_of(cell, shape, dtype)
    batch, height, width, heads = shape
    count = -(-height * width // cell['length'])
    order = torch.rand(batch, heads, height * width, device=cell['device']).argsort(-1) if count > 1 else None

    def plain() -> Results:
        given, grouping = tokens(), None if order is None else ops.Grouping(order, count)
        return [ops.cluster_attention(given.query, given.key, given.value.contiguous(), grouping).flatten(2)]

    def kernel() -> Results:
        return [lepe.lepe_attention(qkv, heads, order, tokens().rotary, count, None, None).flatten(1, 2)]

    return work(kernel, plain, [qkv], cell, dtype)


def scores(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> Work:
    """What tokens are sorted by, of a map (B, H, W, heads)."""
    tokens = heads_of(cell, shape, dtype)[1]
    given = tokens()
    return work(
        lambda: [score.semantic_scores(given.qkv[:, :, 1], given.rotary, 'cosine', False)],
        lambda: [semantic.token_scores(tokens(), 'key', 'cosine', False)],  # anew, as they keep what they rotate
        [],
        cell,
        dtype,
    )


def orders(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> Work:
    """The order of (B, h, N) scores."""
    torch.manual_seed(0)
    given = torch.randn(tuple(shape), device=cell['device'])  # float32 in all precisions
    kernel = None if sort.serves(given) else lambda: [sort.argsort(given)]
    return work(kernel, lambda: [semantic.argsort(given)], [], cell, dtype)
