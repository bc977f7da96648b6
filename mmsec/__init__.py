"""Semantic-clustering backbones for dense prediction on OpenMMLab."""

from mmsec.version import __version__

__all__ = ['__version__']
