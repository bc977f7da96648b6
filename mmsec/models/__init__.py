"""Backbones, necks and what they are made of, registered in :data:`mmsec.registry.MODELS`."""

import mmsec.models.necks  # noqa: F401 (enters them into the registry)
from mmsec.models.backbones.secvit import SecViT

__all__ = ['SecViT']
