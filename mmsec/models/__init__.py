"""Backbones and what they are made of, registered in :data:`mmsec.registry.MODELS`."""

from mmsec.models.backbones.clustr import ClusTR
from mmsec.models.backbones.secvit import SecViT

__all__ = ['ClusTR', 'SecViT']
