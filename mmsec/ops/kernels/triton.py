"""When Triton kernels take the place of plain torch. The kernels are in :mod:`mmsec.ops.kernels.gpu`."""

import functools
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from mmsec import compat
from mmsec.ops.kernels import conditions, table
from mmsec.ops.kernels.dispatch import Kernel

_INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'  # kernels run on a CPU, for tests
# Layers whose arithmetic the residual kernel knows.
_SCALE, _DROP_PATH = 'mmsec.models.layers.maps.LayerScale', 'mmcv.cnn.bricks.drop.DropPath'
_CASTING: set[int] = set()  # blocks whose weights are replaced by copies now
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def _missing() -> str | None:
    """Why there is no Triton, or None; a warning says so once."""
    if why := compat.why_not('GPU kernels'):
        return why
    try:
        import triton  # noqa: F401
    except ImportError as error:
        warnings.warn(f'GPU kernels are left out, plain torch takes their place: {error}', stacklevel=2)
        return f'Triton is missing: {error}'
    return None


def _why_not(name: str, *tensors: Tensor) -> str | None:
    """What all kernels ask: the table, the device and the types."""
    x = tensors[0]
    if why := table.why_not(name):
        return why
    if not (x.is_cuda or _INTERPRETED):
        return f'not on {x.device.type}'
    if x.is_cuda and x.get_device() != torch.cuda.current_device():
        return 'on another device than the current one'
    if any(t.dtype not in _DTYPES for t in tensors):
        return f'not for {", ".join(sorted({str(t.dtype) for t in tensors}))}'
    return _missing()


def _against_depthwise(x: Tensor, conv: nn.Conv2d, residual: Tensor) -> str | None:
    if why := conditions.why_conv(conv) or _why_not('depthwise', x, residual, conv.weight):
        return why
    from mmsec.ops.kernels.gpu import depthwise

    return depthwise.serves(x, conv.weight, conv.bias, residual)


def _depthwise(x: Tensor, conv: nn.Conv2d, residual: Tensor) -> Tensor:
    from mmsec.ops.kernels.gpu import depthwise

    return depthwise.depthwise(x, conv.weight, conv.bias, None if residual is x else residual, False)


def _gelu_depthwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    from mmsec.ops.kernels.gpu import depthwise

    return depthwise.depthwise(x, conv.weight, conv.bias, None, True)


def _against_norm(x: Tensor, norm: Any) -> str | None:
    """Common to all with a LayerNorm behind them."""
    if why := conditions.why_call(norm, nn.LayerNorm):
        return why
    if norm.weight is None or tuple(norm.normalized_shape) != x.shape[-1:]:
        return f'not for {norm}'
    return _why_not('residual_norm', x, norm.weight)


def _into(x: Tensor) -> torch.dtype | None:
    """The type that the linear layer behind a norm wants; None for that of the map."""
    return compat.autocast_dtype(x.device.type)


def _against_residual(x: Tensor, branch: Tensor, scale: Any, drop_path: Any, norm: Any = None) -> str | None:
    for layer, known in ((scale, _SCALE), (drop_path, _DROP_PATH)):
        kind = type(layer)
        if kind is not nn.Identity and f'{kind.__module__}.{kind.__qualname__}' != known:
            return f'{kind.__name__} is not known'
        if why := conditions.why_call(layer, kind):
            return why
    if why := _why_not('residual_norm', x, branch) if norm is None else _against_norm(x, norm):
        return why
    from mmsec.ops.kernels.gpu import norm as kernel

    weight, bias = (None, None) if norm is None else (norm.weight, norm.bias)
    return kernel.serves(x, branch, getattr(scale, 'gamma', None), None, weight, bias)


def _residual(x: Tensor, branch: Tensor, scale: Any, drop_path: Any, norm: Any = None) -> Any:
    from mmsec.ops.kernels.gpu import norm as kernel

    gamma, keep, drawn = getattr(scale, 'gamma', None), 1.0, None
    if drop_path.training and getattr(drop_path, 'drop_prob', 0.0) > 0:
        keep = 1 - drop_path.drop_prob
        dtype = branch.dtype if gamma is None else torch.promote_types(branch.dtype, gamma.dtype)
        drawn = torch.rand(x.shape[0], dtype=dtype, device=x.device)
    if norm is None:
        return x + branch if gamma is None and drawn is None else kernel.residual(x, branch, gamma, drawn, keep)
    return kernel.residual_norm(x, branch, gamma, drawn, keep, norm.weight, norm.bias, norm.eps, _into(x))


def _against_depthwise_norm(x: Tensor, conv: nn.Conv2d, norm: Any) -> str | None:
    if why := _against_depthwise(x, conv, x) or _against_norm(x, norm):
        return why
    from mmsec.ops.kernels.gpu import norm as kernel

    return kernel.serves(x, None, None, None, norm.weight, norm.bias)


def _depthwise_norm(x: Tensor, conv: nn.Conv2d, norm: nn.LayerNorm) -> Any:
    from mmsec.ops.kernels.gpu import norm as kernel

    return kernel.residual_norm(
        _depthwise(x, conv, x), None, None, None, 1.0, norm.weight, norm.bias, norm.eps, _into(x)
    )


def _attention_inputs(tokens: Any, grouping: Any, lepe: nn.Conv2d) -> tuple:
    """What the kernel takes: the map of queries, keys and values, heads, order, table, clusters, weight and bias."""
    batch, _, _, heads, width = tokens.qkv.shape
    order, num_clusters = (None, 1) if grouping is None else grouping
    qkv = tokens.qkv.view(batch, *tokens.size, 3 * heads * width)
    return qkv, heads, order, tokens.rotary, num_clusters, lepe.weight, lepe.bias


def _against_attention(tokens: Any, grouping: Any, lepe: nn.Conv2d) -> str | None:
    if why := conditions.why_conv(lepe) or _why_not('attention', tokens.qkv, lepe.weight):
        return why
    if not tokens.qkv.is_contiguous():
        return 'queries, keys and values are not contiguous'
    from mmsec.ops.kernels.gpu import lepe as kernel

    return kernel.serves(*_attention_inputs(tokens, grouping, lepe))


def _attention(tokens: Any, grouping: Any, lepe: nn.Conv2d) -> Tensor:
    from mmsec.ops.kernels.gpu import lepe as kernel

    return kernel.lepe_attention(*_attention_inputs(tokens, grouping, lepe))


def _against_qkv(qkv: Tensor, grouping: Any, protected: int = 0) -> str | None:
    if grouping is None:
        return 'attention of all tokens to all is left to PyTorch'
    if protected:
        return 'protected tokens attend to all tokens, and all to them'
    if why := _why_not('attention', qkv):
        return why
    from mmsec.ops.kernels.gpu import attention

    return attention.serves(qkv, grouping.order, None, grouping.num_clusters)


def _qkv(qkv: Tensor, grouping: Any, protected: int = 0) -> Tensor:
    from mmsec.ops.kernels.gpu import lepe as kernel

    batch, num_tokens, _, heads, width = qkv.shape
    qkv = qkv.reshape(batch, 1, num_tokens, 3 * heads * width)
    out = kernel.lepe_attention(qkv, heads, grouping.order, None, grouping.num_clusters, None, None)
    return out.view(batch, num_tokens, heads, width)


def _against_sort(scores: Tensor) -> str | None:
    if why := _why_not('sort', scores):
        return why
    from mmsec.ops.kernels.gpu import sort

    return sort.serves(scores)


def _sort(scores: Tensor) -> Tensor:
    from mmsec.ops.kernels.gpu import sort

    return sort.argsort(scores)


def _scored(tokens: Any, feature: str) -> tuple[Tensor, Tensor | None]:
    """The feature as it lies in memory, and the table that it is to be rotated by."""
    if feature == 'token':
        return tokens.token.detach(), None
    x = tokens.qkv[:, :, ('query', 'key', 'value').index(feature)].detach()
    return x, None if feature == 'value' else tokens.rotary


def _against_scores(tokens: Any, feature: str, metric: str, magnitude: bool) -> str | None:
    x, rotary = _scored(tokens, feature)
    if why := _why_not('scores', x):
        return why
    from mmsec.ops.kernels.gpu import score

    return score.serves(x, rotary, metric)


def _scores(tokens: Any, feature: str, metric: str, magnitude: bool) -> Tensor:
    from mmsec.ops.kernels.gpu import score

    return score.semantic_scores(*_scored(tokens, feature), metric, magnitude)


def _linear_weights(block: nn.Module) -> dict[str, Tensor]:
    """Weights and biases of the linear layers inside, by name, that autocast would cast one by one."""
    return {
        f'{name}.{kind}': parameter
        for name, layer in block.named_modules()
        if type(layer) is nn.Linear
        for kind, parameter in layer.named_parameters(recurse=False)
        if parameter.dtype == torch.float32
    }


def _first(inputs: Any) -> Tensor:
    """The first tensor, which may be inside a tuple."""
    return inputs if isinstance(inputs, Tensor) else _first(inputs[0])


def _against_cast(block: nn.Module, *inputs: Any) -> str | None:
    x = _first(inputs)
    if why := _why_not('cast', x):
        return why
    if compat.autocast_dtype(x.device.type) is None:
        return 'there is no autocast'
    if any(each._forward_pre_hooks or 'forward' in vars(each) for each in block.modules()):
        return 'a hook may change weights before they are read, as sharding does'
    if any(hasattr(each, 'device_mesh') for each in block.parameters()):
        return 'weights are sharded'
    return 'another thread runs this block' if id(block) in _CASTING else None


def _call_with_cast_weights(block: nn.Module, *inputs: Any) -> Any:
    from mmsec.ops.kernels.gpu.cast import CastTogether, cast_together

    weights = _linear_weights(block)
    dtype = compat.autocast_dtype(_first(inputs).device.type)
    assert dtype is not None  # asked before
    learnt = {name: weight for name, weight in weights.items() if conditions.wants_gradient(weight)}
    frozen = {name: weight for name, weight in weights.items() if name not in learnt}
    copies: dict[str, Tensor] = {}
    for cast, named in ((CastTogether.apply, learnt), (cast_together, frozen)):
        if named:
            with torch.set_grad_enabled(named is learnt):
                copies |= dict(zip(named, cast(dtype, *named.values()), strict=True))
    _CASTING.add(id(block))
    try:
        return torch.func.functional_call(block, copies, inputs, tie_weights=False)
    finally:
        _CASTING.discard(id(block))


DEPTHWISE = Kernel('Triton depthwise', _against_depthwise, _depthwise)
GELU_DEPTHWISE = Kernel('Triton GELU and depthwise', lambda x, conv: _against_depthwise(x, conv, x), _gelu_depthwise)
DEPTHWISE_NORM = Kernel('Triton depthwise and LayerNorm', _against_depthwise_norm, _depthwise_norm)
RESIDUAL = Kernel('Triton residual', _against_residual, _residual)
RESIDUAL_NORM = Kernel('Triton residual and LayerNorm', _against_residual, _residual)
ATTENTION = Kernel('Triton attention', _against_attention, _attention)
QKV_ATTENTION = Kernel('Triton attention of qkv', _against_qkv, _qkv)
SORT = Kernel('Triton sort', _against_sort, _sort)
SCORES = Kernel('Triton scores', _against_scores, _scores)
WEIGHTS_CAST_TOGETHER = Kernel('weights cast together', _against_cast, _call_with_cast_weights)
