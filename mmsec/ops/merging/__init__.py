"""Ways to make fewer tokens of many. Each is a file here; all are imported, so a new one needs no line elsewhere."""

import importlib
import pkgutil

from mmsec.ops.merging.merging import Links, Merging
from mmsec.ops.merging.method import MERGINGS, MergingMethod

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')

__all__ = [
    'MERGINGS',
    'Links',
    'Merging',
    'MergingMethod',
]
