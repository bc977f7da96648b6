"""Necks. Each is a file here; every file is imported, so that a new one needs no line elsewhere."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')
