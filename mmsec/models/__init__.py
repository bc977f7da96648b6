"""Backbones, registered in :data:`mmsec.registry.MODELS`."""

from mmsec.models.secvit import SecViT

__all__ = ['SecViT']
