"""Rotation of tokens inside a kernel."""

import triton
import triton.language as tl


@triton.jit
def turn(x, table, token, BACK: tl.constexpr):
    """Rows x (R, D) of tokens (R,) in float32, turned by their angles in table (N, D/2, 2) if there is one, or back."""
    x = x.to(tl.float32)
    if table is not None:
        R: tl.constexpr = x.shape[0]
        D: tl.constexpr = x.shape[1]
        turns = tl.load(table + token[:, None] * D + tl.arange(0, D)[None, :])
        cos, sin = tl.split(tl.reshape(turns, [R, D // 2, 2]))
        a, b = tl.split(tl.reshape(x, [R, D // 2, 2]))
        if BACK:
            sin = -sin
        x = tl.reshape(tl.join(a * cos - b * sin, b * cos + a * sin), [R, D])
    return x
