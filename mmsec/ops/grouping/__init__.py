"""Ways of grouping tokens. Each is a file here; every file is imported, so that a new one needs no line elsewhere."""

import importlib
import pkgutil

from mmsec.ops.grouping.grouping import Grouping, cluster_ids, cluster_sizes
from mmsec.ops.grouping.method import GROUPINGS, GroupingMethod, Tokens

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')

__all__ = [
    'GROUPINGS',
    'Grouping',
    'GroupingMethod',
    'Tokens',
    'cluster_ids',
    'cluster_sizes',
]
