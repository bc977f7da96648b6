"""mmdetection's Swin-T, also where mmcv has no compiled operators: it needs none."""

import functools
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from torch import nn

# Packages whose own __init__ is left out, because it imports heads that need mmcv's operators.
_PACKAGES = ('', '.utils', '.models', '.models.layers', '.models.layers.transformer', '.models.backbones')
_TYPES = ('ConfigType', 'MultiConfig', 'OptConfigType', 'OptMultiConfig')  # of mmdet.utils, in annotations alone


def swin_transformer() -> type[nn.Module]:
    """The class; its defaults are Swin-T."""
    try:
        import mmcv.ops  # noqa: F401
    except ImportError:
        return _from_sources()
    from mmdet.models import SwinTransformer

    return SwinTransformer


@functools.cache
def _from_sources() -> type[nn.Module]:
    """The class from its file, with empty packages around it."""
    spec = find_spec('mmdet')
    if spec is None or spec.origin is None:
        raise ImportError('mmdet is missing: put the folder that holds it on PYTHONPATH')
    root = Path(spec.origin).parent
    for name in _PACKAGES:
        module = ModuleType(f'mmdet{name}')
        module.__path__ = [str(root.joinpath(*name.split('.')))]
        sys.modules.setdefault(module.__name__, module)
    for name in _TYPES:
        setattr(sys.modules['mmdet.utils'], name, object)
    parts = importlib.import_module('mmdet.models.layers.transformer.utils')
    layers = sys.modules['mmdet.models.layers']
    layers.PatchEmbed, layers.PatchMerging = parts.PatchEmbed, parts.PatchMerging
    return importlib.import_module('mmdet.models.backbones.swin').SwinTransformer
