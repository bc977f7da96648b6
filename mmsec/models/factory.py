"""Backbones by name and size, as timm's users ask for them."""

from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmsec.errors import InputError
from mmsec.models.backbones.base import Backbone
from mmsec.registry import MODELS


def list_models(filter: str = '') -> list[str]:
    """List the names that :func:`create_model` takes: type and size, such as 'secvit_small', from small to large.

    Args:
        filter (str): A pattern such as 'secvit*' or '*dinov3*'. Default: all names.

    Returns:
        list[str]: The names that match; none if no name does.
    """
    return [name for name in _sizes() if fnmatchcase(name, filter or '*')]


def create_model(name: str, pretrained: str | Path | bool | None = None, **options: Any) -> Backbone:
    """Build a backbone by its name.

    Args:
        name (str): One of :func:`list_models`.
        pretrained (str | Path, optional): A checkpoint, as the backbone takes it. Default: None, random weights.
        options: Further options of the backbone, such as ``out_indices``.

    Returns:
        Backbone: In training mode, as any module that was built.

    Raises:
        InputError: If there is no such name, or the checkpoint cannot be used.
        TypeError: If the backbone has no such option.
    """
    sizes = _sizes()
    if name not in sizes:
        near = get_close_matches(str(name).lower().replace('-', '_'), sizes, n=3, cutoff=0.5)
        known = f'did you mean {" or ".join(map(repr, near))}?' if near else 'no name of mmsec is like it.'
        raise InputError(f'no model {name!r}: {known} mmsec.list_models() has all names')
    kind, arch = sizes[name]
    return kind(arch, pretrained=pretrained, **options)


def _sizes() -> dict[str, tuple[Any, str]]:
    """To each name the class of a registered backbone and its ``arch``."""
    kinds = {name: kind for name, kind in MODELS.module_dict.items() if getattr(kind, 'arch_zoo', None)}
    return {
        f'{name}_{arch}'.lower().replace('-', '_'): (kind, arch)
        for name, kind in sorted(kinds.items())
        for arch in kind.arch_zoo
    }
