"""Multiply-adds of a model, module by module."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmsec import compat
from mmsec.errors import InputError
from mmsec.ops.grouping import kmeans  # noqa: F401
from mmsec.ops.merging import atc, density_peaks  # noqa: F401

KINDS = {
    'clustering': ('mmsec.agglomerative', 'mmsec.density_peaks', 'mmsec.kmeans_order'),
    'attention': (  # products of queries, keys and values; projections are matrix products as all others
        'aten._scaled_dot_product_efficient_attention',
        'aten._scaled_dot_product_flash_attention',
        'aten._scaled_dot_product_flash_attention_for_cpu',
        'aten.bmm',
        'aten.baddbmm',
    ),
}


def count_kinds(model: nn.Module, run: Callable[[], object]) -> dict[str, dict[str, int]]:
    """Multiply-adds of every module that ``run`` reaches, by dotted name; '' is the whole model.

    Matrix products, convolutions, attention products and distances between tokens that are clustered are counted, apart
    for 'clustering', 'attention' and 'rest'; norms, activations and additions are not.
    """
    if why := compat.why_not('counting FLOPs'):
        raise InputError(why)

    def flash_on_cpu(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **options: Any) -> int:
        return sdpa_flop_count(q, k, v)

    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flash_on_cpu}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter, torch.no_grad():
        run()
    root = type(model).__name__
    counts = {}
    for name, operators in counter.get_flop_counts().items():
        kinds = dict.fromkeys((*KINDS, 'rest'), 0)
        for operator, flops in operators.items():
            kind = next((kind for kind, known in KINDS.items() if str(operator) in known), 'rest')
            kinds[kind] += flops // 2
        counts['' if name == 'Global' else name.removeprefix(root).removeprefix('.')] = kinds
    return counts
