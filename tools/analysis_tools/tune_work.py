"""What tune_gpu.py times of kernels: inputs, what kernels do with them, and the same passes in plain torch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from baselines import DTYPES, precision
from torch import Tensor, nn

from mmsec import ops
from mmsec.ops.grouping import semantic
from mmsec.ops.kernels import table
from mmsec.ops.kernels.gpu import attention, depthwise, norm, score, sort

Results = Sequence[Tensor]


class Step(NamedTuple):
    """A part of a pass that kernels compute: ``run`` gives the results ``part`` of plain torch's pass ``of``."""

    run: Callable[[], Results]
    of: str
    part: slice = slice(None)


Work = tuple[dict[str, Step], dict[str, Callable[[], Results]]]  # what kernels do, and passes of plain torch


def passes(run: Callable[[], Results], leaves: Results, cell: dict, dtype: torch.dtype) -> dict[str, Callable]:
    """The passes of plain torch, as it runs today without Triton: forward, and backward if there are leaves."""

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
    x, other = wide[..., -channels:], drawn(cell, dtype, *shape, channels)
    leaf = x.contiguous().requires_grad_()
    run = {
        'pos': lambda: [ops.conv_residual(leaf, conv, leaf)],
        'ffn': lambda: [ops.gelu_conv_residual(leaf, conv)],
        'lepe': lambda: [ops.conv_residual(leaf, conv, other)],
    }[part]
    plain = passes(run, [leaf, conv.weight, conv.bias], cell, dtype)
    torch.manual_seed(1)
    grad = drawn(cell, dtype, *shape, channels)
    weight, bias, gelu = conv.weight.detach(), conv.bias.detach(), part == 'ffn'
    residual = other if part == 'lepe' else None
    plus, pre = None if part == 'lepe' else grad, x if gelu else None
    steps = {
        'forward': Step(lambda: [depthwise.forward(x, weight, bias, residual, gelu)], 'forward'),
        'input': Step(lambda: [depthwise.input_gradient(grad, weight, plus, pre)], 'backward', slice(0, 1)),
        'weight': Step(lambda: depthwise.weight_gradient(grad, x, weight, bias, gelu), 'backward', slice(1, 3)),
    }
    return steps, plain


def layer_norm(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> Work:
    """A residual and the LayerNorm behind it."""
    torch.manual_seed(0)
    layer = nn.LayerNorm(cell['channels'], device=cell['device'])
    nn.init.normal_(layer.weight)  # in float32, as what is drawn next depends on the type
    layer = layer.to(torch.promote_types(dtype, torch.float32))
    leaves = [drawn(cell, dtype, *shape, cell['channels']).requires_grad_() for _ in range(2)]
    same = nn.Identity()
    parameters = [layer.weight, layer.bias]
    plain = passes(lambda: ops.residual_norm(*leaves, same, same, layer), [*leaves, *parameters], cell, dtype)
    torch.manual_seed(1)
    grads = [drawn(cell, dtype, *shape, cell['channels']) for _ in range(2)]
    x, branch, weight, bias = (each.detach() for each in (*leaves, *parameters))
    if dtype == torch.float64:
        return {}, plain
    whole = norm.forward(x, branch, None, None, 1.0, weight, bias, layer.eps)
    kept = (whole[0], None, None, None, weight, bias, *whole[2:])

    def backward() -> Results:
        found = norm.backward(*grads, kept, 1.0, (True, True, False, True, True), (x.dtype, x.dtype))
        return [each for each in found if each is not None]

    def forward() -> Results:
        return norm.forward(x, branch, None, None, 1.0, weight, bias, layer.eps)[:2]

    return {'forward': Step(forward, 'forward'), 'backward': Step(backward, 'backward')}, plain


def tokens_of(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Queries, keys and values (B, N, 3, h, d) of a map (B, H, W, heads), their rotary table, and clusters."""
    batch, height, width, heads = shape
    torch.manual_seed(0)
    qkv = drawn(cell, dtype, batch, height * width, 3, heads, cell['width'])
    rotary = ops.rotary_table(height, width, cell['width'], dtype, torch.device(cell['device']))
    return qkv, rotary, -(-height * width // cell.get('length', 1))


def clusters(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> Work:
    """Rotation, and attention inside clusters of 'length' tokens at most, of a map (B, H, W, heads)."""
    qkv, rotary, count = tokens_of(cell, shape, dtype)
    batch, number, _, heads, width = qkv.shape
    order = torch.rand(batch, heads, number, device=cell['device']).argsort(-1)
    leaf = qkv.clone().requires_grad_()

    def run() -> Results:
        tokens = ops.Tokens(leaf, leaf[:, :, 0], tuple(shape[1:3]), rotary)
        values = tokens.value.contiguous()
        grouping = ops.Grouping(order, count) if count > 1 else None
        return [ops.cluster_attention(tokens.query, tokens.key, values, grouping).flatten(2)]

    plain = passes(run, [leaf], cell, dtype)
    torch.manual_seed(1)
    grad = drawn(cell, dtype, batch, number, heads * width)
    if dtype == torch.float64:
        return {}, plain
    places = order if count > 1 else None
    kept = attention.forward(qkv, places, rotary, count)
    steps = {
        'forward': Step(lambda: attention.forward(qkv, places, rotary, count)[:1], 'forward'),
        'backward': Step(lambda: [attention.backward(grad, qkv, places, rotary, *kept, count)], 'backward'),
    }
    return steps, plain


def scores(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> Work:
    """What tokens are sorted by, of a map (B, H, W, heads)."""
    qkv, rotary, _ = tokens_of(cell, shape, dtype)

    def run() -> Results:
        tokens = ops.Tokens(qkv, qkv[:, :, 0], tuple(shape[1:3]), rotary)
        return [semantic.token_scores(tokens, 'key', 'cosine', False)]

    ours = Step(lambda: [score.semantic_scores(qkv[:, :, 1], rotary, 'cosine', False)], 'forward')
    return {'forward': ours}, passes(run, [], cell, dtype)


def orders(cell: dict, shape: Sequence[int], dtype: torch.dtype) -> Work:
    """The order of (B, h, N) scores."""
    torch.manual_seed(0)
    given = torch.randn(tuple(shape), device=cell['device'])  # float32 in all precisions
    steps = {} if sort.serves(given) else {'forward': Step(lambda: [sort.argsort(given)], 'forward')}
    return steps, passes(lambda: [semantic.argsort(given)], [], cell, dtype)
