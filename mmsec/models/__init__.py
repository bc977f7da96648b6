"""Backbones, necks and what they are made of, registered in :data:`mmsec.registry.MODELS`."""

from mmsec.models.backbones.clustr import ClusTR
from mmsec.models.backbones.secvit import SecViT
from mmsec.models.backbones.swin import ClusteredSwin
from mmsec.models.backbones.vit import ViT
from mmsec.models.initial_weights import PyTorchDefault
from mmsec.models.necks.pooled_projection import PooledProjection
from mmsec.models.necks.simple_feature_pyramid import SimpleFeaturePyramid
from mmsec.registry import MODELS, renamed

renamed(MODELS, SemanticClusters='ClusteredSwin')

__all__ = ['ClusTR', 'ClusteredSwin', 'PooledProjection', 'PyTorchDefault', 'SecViT', 'SimpleFeaturePyramid', 'ViT']
